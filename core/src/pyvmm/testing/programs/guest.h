/* What a program without a kernel needs: ports, memory-mapped registers, and words to its host.
 *
 * It starts in 64-bit mode at privilege level 0 or 3, the first 4 GiB mapped to themselves.
 */
#pragma once

#include <stdint.h>

/* The host takes 32-bit words here, in order. */
#define REPORT_PORT 0x510
/* What the host says before the start, and where the guest may answer in bulk: see program.py. */
#define PARAMETERS ((volatile uint64_t *)0x300000)
#define FREE_MEMORY 0x400000ULL

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(uint16_t port, uint32_t value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t inl(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void rep_outsb(uint16_t port, const void *data, uint64_t count)
{
    __asm__ volatile("rep outsb" : "+S"(data), "+c"(count) : "d"(port) : "memory");
}

static inline void rep_insb(uint16_t port, void *data, uint64_t count)
{
    __asm__ volatile("rep insb" : "+D"(data), "+c"(count) : "d"(port) : "memory");
}

static inline void write32(uint64_t address, uint32_t value)
{
    __asm__ volatile("movl %0, %1" : : "r"(value), "m"(*(volatile uint32_t *)address) : "memory");
}

static inline uint32_t read32(uint64_t address)
{
    uint32_t value;
    __asm__ volatile("movl %1, %0" : "=r"(value) : "m"(*(volatile uint32_t *)address) : "memory");
    return value;
}

static inline void report(uint32_t value) { outl(REPORT_PORT, value); }

static inline void barrier(void) { __asm__ volatile("" : : : "memory"); }
static inline void fence(void) { __asm__ volatile("lock addl $0, (%%rsp)" : : : "memory", "cc"); }
static inline void pause(void) { __asm__ volatile("pause"); }

/* Privilege level 0 only. */
static inline void hlt(void) { __asm__ volatile("hlt"); }

static inline _Noreturn void poweroff(void)
{
    outb(0x600, 5 << 2 | 0x20);
    for (;;)
        pause();
}

/* The program, on the CPU with this number; it returns to the host by poweroff(). */
void program(uint64_t cpu);

__attribute__((naked, used, section(".text.start"))) void _start(void)
{
    /* The stack pointer is at a page's end, as before a call. */
    __asm__ volatile("xor %ebp, %ebp; call program; ud2");
}
