/* What every part of the guest uses. There is no library under it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high)::"memory");
    return (uint64_t)high << 32 | low;
}

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* One plain MOV each, which every KVM can decode. */
static inline uint32_t mmio_read(uint64_t address)
{
    uint32_t value;
    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
    return value;
}

static inline void mmio_write(uint64_t address, uint32_t value)
{
    __asm__ volatile("movl %0, (%1)" ::"r"(value), "r"(address) : "memory");
}

static inline void barrier(void) { __asm__ volatile("" ::: "memory"); }
static inline void full_barrier(void) { __asm__ volatile("lock; addl $0, (%%rsp)" ::: "memory"); }
static inline void relax(void) { __asm__ volatile("pause" ::: "memory"); }

/* console.c */
void put(const char *text);
void put_number(const char *name, uint64_t value);
void fail(const char *why) __attribute__((noreturn));
void end(void) __attribute__((noreturn));

/* parameters.c: the words of the kernel's command line that begin with "bench=" */
void parameters_init(const void *boot_data);
const char *parameters_next(char *word, size_t size);
bool next_field(const char **text, char *field, size_t size);
uint64_t to_number(const char *text);
bool same(const char *a, const char *b);

/* memory.c */
void *allocate(size_t size, size_t alignment);
void free_all(void);
void *memcpy(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);

/* latency.c: times of single events, in ticks, to 1.6 per cent */
void latency_reset(void);
void latency_add(uint64_t ticks);
void latency_report(void);

/* What was asked for. */
extern uint64_t ticks_per_ms;

/* The tests: each takes the rest of its word. */
void test_exits(const char *text);
void test_block(const char *text);
void test_net(const char *text);

/* Around what is timed. The host takes note of the time at both; then come the results. */
void begin_timing(void);
void end_timing(uint64_t count, uint64_t ticks);
