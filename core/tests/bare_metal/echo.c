/* A driver for a device that echoes: negotiates, and drives queue 0 for as many requests as it is told. Each CPU drives
 * a device of its own; the last one that is done powers off.
 *
 * Words from the host for each CPU (WORDS apart): requests, chains in flight at most, flags, the window's address, its
 * interrupt line; the number of CPUs. Words to the host, from ANSWERS on: requests answered, wrong answers, interrupts,
 * kicks, status.
 */
#include "guest.h"

#define EVENT_IDX 1 /* VIRTIO_F_EVENT_IDX */
#define INDIRECT 2  /* each chain in a table of its own */
#define SLEEP 4     /* hlt until an interrupt: on the first CPU, at privilege level 0 */
#define QUIET 8     /* the device is asked for no interrupt */

#define WORDS 32
#define ANSWERS 16
#define SIZE 64

struct entry {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct avail {
    uint16_t flags, idx, ring[SIZE], used_event;
};

struct used {
    uint16_t flags, idx;
    struct {
        uint32_t id, length;
    } ring[SIZE];
    uint16_t avail_event;
};

/* All that a driver shares with its device. */
struct shared {
    _Alignas(4096) struct entry table[SIZE];
    _Alignas(4096) struct avail avail;
    _Alignas(4096) struct used used;
    _Alignas(4096) struct entry tables[SIZE / 2][2];
    _Alignas(4096) uint64_t buffers[SIZE / 2][2];
};

struct driver {
    uint64_t window, flags;
    volatile struct shared *shared;
};

static void write_address(uint64_t reg, volatile void *address)
{
    write32(reg, (uint32_t)(uint64_t)address);
    write32(reg + 4, (uint32_t)((uint64_t)address >> 32));
}

static uint32_t negotiate(const struct driver *d)
{
    uint64_t window = d->window;
    uint32_t ring = (d->flags & EVENT_IDX ? 1u << 29 : 0) | (d->flags & INDIRECT ? 1u << 28 : 0);

    if (read32(window) != 0x74726976 || read32(window + 4) != 2)
        return 0xffffffff;
    write32(window + 0x70, 0);
    write32(window + 0x70, 1);
    write32(window + 0x70, 3);
    write32(window + 0x24, 0);
    write32(window + 0x20, ring);
    write32(window + 0x24, 1);
    write32(window + 0x20, 1); /* VERSION_1 */
    write32(window + 0x70, 11);
    write32(window + 0x30, 0);
    write32(window + 0x38, SIZE);
    write_address(window + 0x80, d->shared->table);
    write_address(window + 0x90, &d->shared->avail);
    write_address(window + 0xa0, &d->shared->used);
    write32(window + 0x44, 1);
    write32(window + 0x70, 15);
    return read32(window + 0x70);
}

/* Makes the chain of `slot` available: 8 bytes out, 8 bytes in. */
static void add(const struct driver *d, uint64_t slot, uint64_t number)
{
    volatile struct shared *s = d->shared;
    uint16_t head = (uint16_t)(2 * slot), next = (uint16_t)(head + 1);
    volatile struct entry *entries = s->table + head;
    volatile uint64_t *buffer = s->buffers[slot];

    buffer[0] = number;
    buffer[1] = 0;
    if (d->flags & INDIRECT) {
        entries = s->tables[slot];
        s->table[head].address = (uint64_t)entries;
        s->table[head].length = sizeof s->tables[slot];
        s->table[head].flags = 4;
        next = 1;
    }
    entries[0].address = (uint64_t)buffer;
    entries[0].length = 8;
    entries[0].flags = 1;
    entries[0].next = next;
    entries[1].address = (uint64_t)(buffer + 1);
    entries[1].length = 8;
    entries[1].flags = 2;
    s->avail.ring[s->avail.idx % SIZE] = head;
    barrier();
    s->avail.idx++;
}

struct gate {
    uint16_t low, selector, type, middle;
    uint32_t high, zero;
};

struct descriptor_table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

#define VECTOR 0x40

static volatile uint64_t interrupts;

__attribute__((interrupt)) static void on_interrupt(void *frame)
{
    uint64_t window = PARAMETERS[3];
    (void)frame;
    write32(window + 0x64, read32(window + 0x60));
    interrupts++;
    write32(0xfee000b0, 0);
}

static void enable_interrupts(uint32_t line)
{
    static struct gate gates[VECTOR + 1];
    uint64_t handler = (uint64_t)on_interrupt;
    struct gate gate = {(uint16_t)handler, 0x10, 0x8e00, (uint16_t)(handler >> 16), (uint32_t)(handler >> 32), 0};
    struct descriptor_table idt = {sizeof gates - 1, (uint64_t)gates};

    gates[VECTOR] = gate;
    __asm__ volatile("lidt %0" : : "m"(idt));
    /* The line is one of the PICs' too; by the IOAPIC it is to come. */
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    write32(0xfee000f0, 0x1ff);
    write32(0xfec00000, 0x10 + 2 * line + 1);
    write32(0xfec00010, 0);
    write32(0xfec00000, 0x10 + 2 * line);
    write32(0xfec00010, VECTOR);
}

/* Sleeps until the used index is not `seen`. */
static void sleep_until_used(volatile struct shared *s, uint16_t seen)
{
    s->avail.flags = 0;
    s->avail.used_event = seen;
    fence();
    while (s->used.idx == seen)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    s->avail.flags = 1;
}

void program(uint64_t cpu)
{
    volatile uint64_t *words = PARAMETERS + WORDS * cpu;
    uint64_t depth = words[1], flags = words[2];
    struct driver d = {words[3], flags, (volatile void *)(FREE_MEMORY + 0x100000 * cpu)};
    volatile struct shared *s = d.shared;
    uint64_t sent = 0, answered = 0, wrong = 0, kicks = 0, slots[SIZE / 2], free_slots = 0;
    uint16_t seen = 0;

    if (flags & SLEEP)
        enable_interrupts((uint32_t)words[4]);
    words[ANSWERS + 4] = negotiate(&d);
    s->avail.flags = (flags & QUIET) != 0;
    s->avail.used_event = flags & QUIET ? 0x7fff : 0;
    for (uint64_t slot = 0; slot < depth; slot++)
        slots[free_slots++] = slot;
    /* The host may change its mind about how many there are to be. */
    while (sent < words[0] || answered < sent) {
        uint16_t before = s->avail.idx;
        while (free_slots && sent < words[0])
            add(&d, slots[--free_slots], ++sent * 0x9e3779b97f4a7c15);
        fence();
        uint16_t added = (uint16_t)(s->avail.idx - before), event = s->used.avail_event;
        int wanted = flags & EVENT_IDX ? (uint16_t)(s->avail.idx - event - 1) < added : !(s->used.flags & 1);
        if (added && wanted) {
            write32(d.window + 0x50, 0);
            kicks++;
        }
        if (s->used.idx == seen && flags & SLEEP)
            sleep_until_used(s, seen);
        while (s->used.idx == seen)
            pause();
        for (; seen != s->used.idx; seen++) {
            barrier();
            uint64_t slot = s->used.ring[seen % SIZE].id / 2;
            wrong += s->buffers[slot][0] != s->buffers[slot][1] || s->used.ring[seen % SIZE].length != 8;
            slots[free_slots++] = slot;
            answered++;
        }
    }
    /* The first batch was made with interrupts asked for: one is owed, also by a device too fast to let us sleep. */
    while (flags & SLEEP && !interrupts)
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    words[ANSWERS] = answered;
    words[ANSWERS + 1] = wrong;
    words[ANSWERS + 2] = interrupts;
    words[ANSWERS + 3] = kicks;
    static uint64_t done;
    if (__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST) == words[5])
        poweroff();
    for (;;)
        pause();
}
