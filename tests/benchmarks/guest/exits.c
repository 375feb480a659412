/*
 * bench=exits,ACCESS,ADDRESS,MS[,LOAD,…]: accesses that the VMM answers, one after the other. ACCESS: portin, portout,
 * mmioin or mmioout. LOAD is what a device does at the same time, kept at it between two accesses:
 *
 *   block,DEPTH      reads of 4 KiB at random
 *   chores,DEPTH     requests of one byte to a device of type 4, which works on each as long as it likes
 *
 * At privilege level 3 each access is timed; at 0, where an instruction may be emulated, only all together.
 */
#include "block.h"

#define VIRTIO_ID_RNG 4
#define BATCH 64

static struct block_load disk;

static struct {
    struct device device;
    struct queue queue;
    uint64_t done;
} chores;

static void chores_start(unsigned depth)
{
    device_start(&chores.device, VIRTIO_ID_RNG, 0);
    device_queue(&chores.device, &chores.queue, 0);
    if (depth > chores.queue.size)
        fail("the queue is too short");
    device_ready(&chores.device);
    for (uint16_t slot = 0; slot < depth; slot++) {
        chores.queue.descriptors[slot] = (struct descriptor){(uintptr_t)allocate(1, 1), 1, DESC_F_WRITE, 0};
        queue_add(&chores.queue, slot);
    }
    queue_kick(&chores.queue);
}

static void chores_turn(bool renew)
{
    int slot;

    while ((slot = queue_take(&chores.queue, NULL)) >= 0) {
        chores.done++;
        if (renew)
            queue_add(&chores.queue, (uint16_t)slot);
    }
    queue_kick(&chores.queue);
}

static void chores_stop(void)
{
    while ((uint16_t)(chores.queue.next_available - chores.queue.next_used)) {
        chores_turn(false);
        relax();
    }
    device_stop(&chores.device);
}

enum access { PORT_IN, PORT_OUT, MMIO_IN, MMIO_OUT };

static enum access to_access(const char *name)
{
    static const char *const names[] = {"portin", "portout", "mmioin", "mmioout"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        if (same(name, names[i]))
            return (enum access)i;
    fail("no such access");
}

static inline __attribute__((always_inline)) void one(enum access access, uint64_t address)
{
    switch (access) {
    case PORT_IN:
        inb((uint16_t)address);
        break;
    case PORT_OUT:
        outb((uint16_t)address, 0x5a);
        break;
    case MMIO_IN:
        mmio_read(address);
        break;
    case MMIO_OUT:
        mmio_write(address, 0);
        break;
    }
}

/* As few instructions to an access as can be. */
static void many(enum access access, uint64_t address)
{
    switch (access) {
    case PORT_IN:
        for (int i = 0; i < BATCH; i++)
            one(PORT_IN, address);
        break;
    case PORT_OUT:
        for (int i = 0; i < BATCH; i++)
            one(PORT_OUT, address);
        break;
    case MMIO_IN:
        for (int i = 0; i < BATCH; i++)
            one(MMIO_IN, address);
        break;
    case MMIO_OUT:
        for (int i = 0; i < BATCH; i++)
            one(MMIO_OUT, address);
        break;
    }
}

void test_exits(const char *text)
{
    char name[16], address_text[24], ms[16], load[16], depth[16];
    bool block, chore;

    if (!next_field(&text, name, sizeof name) || !next_field(&text, address_text, sizeof address_text) ||
        !next_field(&text, ms, sizeof ms))
        fail("exits: fields are missing");
    if (!next_field(&text, load, sizeof load) || !next_field(&text, depth, sizeof depth))
        load[0] = 0;
    enum access access = to_access(name);
    uint64_t address = to_number(address_text), count = 0;
    block = same(load, "block");
    chore = same(load, "chores");
    if (block)
        block_start(&disk, "read", 4096, (unsigned)to_number(depth));
    if (chore)
        chores_start((unsigned)to_number(depth));
    many(access, address);

    begin_timing();
    disk.done = chores.done = 0;
    uint64_t begin = rdtsc(), last = begin + to_number(ms) * ticks_per_ms, now;
    do {
#if LEVEL == 3
        uint64_t before = rdtsc();
        one(access, address);
        now = rdtsc();
        latency_add(now - before);
        count++;
        if (block)
            block_turn(&disk, true);
        if (chore)
            chores_turn(true);
#else
        many(access, address);
        count += BATCH;
        now = rdtsc();
#endif
    } while (now < last);
    uint64_t done = disk.done + chores.done;
    end_timing(count, now - begin);
    if (block)
        block_stop(&disk);
    if (chore)
        chores_stop();
    if (block || chore)
        put_number(" requests=", done);
}
