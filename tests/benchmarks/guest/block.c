/*
 * bench=block,OPERATION,BYTES,DEPTH,MS: keeps DEPTH requests in flight for that long. OPERATION: read, write (at
 * random places), seqread or seqwrite. Each request is a chain in an indirect table, as Linux makes them.
 */
#include "block.h"

#define T_IN 0
#define T_OUT 1
#define F_FLUSH (1ull << 9)
#define SECTOR 512

struct block_request {
    struct descriptor table[3];
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    volatile uint8_t status;
    uint64_t begun;
};

static void submit(struct block_load *load, uint16_t slot)
{
    struct block_request *request = load->requests + slot;
    uint64_t sectors = load->size / SECTOR, places = load->sectors / sectors, place;

    if (load->sequential) {
        place = load->next++ % places;
    } else {
        load->random ^= load->random << 13;
        load->random ^= load->random >> 7;
        load->random ^= load->random << 17;
        place = load->random % places;
    }
    request->header.sector = place * sectors;
    request->status = 0xff;
    request->begun = rdtsc();
    queue_add(&load->queue, slot);
}

void block_start(struct block_load *load, const char *operation, uint32_t size, unsigned depth)
{
    bool write = same(operation, "write") || same(operation, "seqwrite");

    memset(load, 0, sizeof *load);
    load->sequential = same(operation, "seqread") || same(operation, "seqwrite");
    if (!write && !load->sequential && !same(operation, "read"))
        fail("no such operation");
    device_start(&load->device, VIRTIO_ID_BLOCK, F_FLUSH);
    if (!(load->device.features & VIRTIO_RING_F_INDIRECT_DESC))
        fail("the disk has no indirect descriptors");
    load->sectors = device_config64(&load->device, 0);
    load->size = size;
    load->random = 0x9e3779b97f4a7c15;
    device_queue(&load->device, &load->queue, 0);
    if (depth > load->queue.size)
        fail("the queue is too short");
    device_ready(&load->device);
    load->requests = allocate(depth * sizeof *load->requests, 64);
    for (uint16_t slot = 0; slot < depth; slot++) {
        struct block_request *request = load->requests + slot;
        void *data = allocate(size, 4096);
        uint64_t header = (uintptr_t)&request->header, status = (uintptr_t)&request->status;
        request->table[0] = (struct descriptor){header, sizeof request->header, DESC_F_NEXT, 1};
        request->table[1] =
            (struct descriptor){(uintptr_t)data, size, DESC_F_NEXT | (write ? 0 : DESC_F_WRITE), 2};
        request->table[2] = (struct descriptor){status, 1, DESC_F_WRITE, 0};
        request->header.type = write ? T_OUT : T_IN;
        request->header.reserved = 0;
        load->queue.descriptors[slot] =
            (struct descriptor){(uintptr_t)request->table, sizeof request->table, DESC_F_INDIRECT, 0};
    }
    for (uint16_t slot = 0; slot < depth; slot++)
        submit(load, slot);
    queue_kick(&load->queue);
}

unsigned block_turn(struct block_load *load, bool renew)
{
    unsigned taken = 0;
    int slot;

    while ((slot = queue_take(&load->queue, NULL)) >= 0) {
        if (load->requests[slot].status)
            fail("a request failed");
        if (load->timed)
            latency_add(rdtsc() - load->requests[slot].begun);
        taken++;
        if (renew)
            submit(load, (uint16_t)slot);
    }
    queue_kick(&load->queue);
    load->done += taken;
    return taken;
}

void block_stop(struct block_load *load)
{
    while ((uint16_t)(load->queue.next_available - load->queue.next_used))
        if (!block_turn(load, false))
            relax();
    device_stop(&load->device);
}

void test_block(const char *text)
{
    char operation[16], size[16], depth[16], ms[16];
    struct block_load load;

    if (!next_field(&text, operation, sizeof operation) || !next_field(&text, size, sizeof size) ||
        !next_field(&text, depth, sizeof depth) || !next_field(&text, ms, sizeof ms))
        fail("block: fields are missing");
    block_start(&load, operation, (uint32_t)to_number(size), (unsigned)to_number(depth));
    begin_timing();
    /* What came before is not counted, but for the requests in flight, which stand for those at the end. */
    load.timed = true;
    load.done = 0;
    uint64_t begin = rdtsc(), last = begin + to_number(ms) * ticks_per_ms, now;
    do {
        if (!block_turn(&load, true))
            relax();
        now = rdtsc();
    } while (now < last);
    uint64_t done = load.done;
    load.timed = false;
    end_timing(done, now - begin);
    put_number(" kicks=", load.queue.kicks);
    block_stop(&load);
}
