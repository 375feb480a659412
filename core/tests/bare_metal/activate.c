/* A driver that brings up every virtio device that it finds, gives each disk and source of entropy one request, and
 * powers off; with STAY, it stays. A device that fails is left alone. */
#include "guest.h"

#define WINDOWS 0xd0000000ULL
#define WINDOW_SIZE 0x1000
#define MAX_DEVICES 32
#define MAX_QUEUES 8
#define SIZE 16
#define NEEDS_RESET 0x40

#define ID_BLOCK 2
#define ID_ENTROPY 4

struct entry {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct queue {
    _Alignas(4096) struct entry table[SIZE];
    _Alignas(4096) struct {
        uint16_t flags, idx, ring[SIZE];
    } avail;
    _Alignas(4096) struct {
        uint16_t flags, idx;
        struct {
            uint32_t id, length;
        } ring[SIZE];
    } used;
};

static void write_address(uint64_t reg, volatile void *address)
{
    write32(reg, (uint32_t)(uint64_t)address);
    write32(reg + 4, (uint32_t)((uint64_t)address >> 32));
}

static void set_up(uint64_t window, volatile struct queue *queues)
{
    write32(window + 0x70, 1);
    write32(window + 0x70, 3);
    write32(window + 0x24, 1); /* VIRTIO_F_VERSION_1, and nothing else */
    write32(window + 0x20, 1);
    write32(window + 0x70, 11);
    for (uint32_t i = 0; i < MAX_QUEUES; i++) {
        write32(window + 0x30, i);
        if (!read32(window + 0x34))
            break;
        write32(window + 0x38, SIZE);
        write_address(window + 0x80, &queues[i].table);
        write_address(window + 0x90, &queues[i].avail);
        write_address(window + 0xa0, &queues[i].used);
        write32(window + 0x44, 1);
    }
    write32(window + 0x70, 15);
}

static void set(volatile struct entry *entry, uint64_t address, uint32_t length, uint16_t flags, uint16_t next)
{
    entry->address = address;
    entry->length = length;
    entry->flags = flags;
    entry->next = next;
}

/* Until the device answers or fails. */
static void ask(uint64_t window, volatile struct queue *queue)
{
    fence();
    queue->avail.idx = 1;
    fence();
    write32(window + 0x50, 0);
    while (!queue->used.idx) {
        for (int i = 0; i < 1000 && !queue->used.idx; i++)
            pause();
        if (read32(window + 0x70) & NEEDS_RESET)
            return;
    }
}

void program(uint64_t cpu)
{
    volatile struct queue *queues = (volatile struct queue *)FREE_MEMORY;
    uint8_t *data = (uint8_t *)FREE_MEMORY + MAX_DEVICES * MAX_QUEUES * sizeof(struct queue);
    (void)cpu;
    for (int i = 0; i < MAX_DEVICES; i++, queues += MAX_QUEUES, data += 0x2000) {
        uint64_t window = WINDOWS + (uint64_t)i * WINDOW_SIZE;
        uint32_t id = read32(window) == 0x74726976 ? read32(window + 8) : 0;
        if (!id)
            continue;
        set_up(window, queues);
        if (id == ID_BLOCK) {
            set(&queues->table[0], (uint64_t)data, 16, 1, 1); /* a read of sector 0: zeros */
            set(&queues->table[1], (uint64_t)data + 0x1000, 512, 3, 2);
            set(&queues->table[2], (uint64_t)data + 0x100, 1, 2, 0);
            ask(window, queues);
        } else if (id == ID_ENTROPY) {
            set(&queues->table[0], (uint64_t)data, 64, 2, 0);
            ask(window, queues);
        }
    }
#ifdef STAY
    for (;;)
        hlt();
#endif
    poweroff();
}
