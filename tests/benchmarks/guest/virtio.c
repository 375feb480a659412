/* virtio 1.2 over MMIO version 2: sections 2.7 and 4.2. */
#include "virtio.h"

#define MAGIC_VALUE 0x000
#define VERSION 0x004
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SEL 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define STATUS 0x070
#define QUEUE_DESC 0x080
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define CONFIG 0x100

#define MAGIC 0x74726976
#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8

#define USED_F_NO_NOTIFY 1
#define AVAIL_F_NO_INTERRUPT 1

static const struct {
    uint64_t base;
    unsigned step, count;
} windows[] = {
    {0xd0000000, 0x1000, 16}, /* pyvmm */
    {0xfeb00000, 0x200, 24},  /* QEMU microvm */
};

static uint64_t find(uint32_t type)
{
    for (size_t i = 0; i < ARRAY_SIZE(windows); i++) {
        for (unsigned n = 0; n < windows[i].count; n++) {
            uint64_t base = windows[i].base + n * windows[i].step;
            if (mmio_read(base + MAGIC_VALUE) != MAGIC)
                break;
            if (mmio_read(base + DEVICE_ID) == type) {
                if (mmio_read(base + VERSION) != 2)
                    fail("the device is a legacy one");
                return base;
            }
        }
    }
    fail("no such device");
}

static void add_status(const struct device *device, uint32_t bit)
{
    mmio_write(device->base + STATUS, mmio_read(device->base + STATUS) | bit);
    if (!(mmio_read(device->base + STATUS) & bit))
        fail("the device refuses");
}

void device_start(struct device *device, uint32_t type, uint64_t wanted_features)
{
    device->base = find(type);
    device_stop(device);
    add_status(device, ACKNOWLEDGE);
    add_status(device, DRIVER);
    uint64_t offered = 0;
    for (unsigned page = 0; page < 2; page++) {
        mmio_write(device->base + DEVICE_FEATURES_SEL, page);
        offered |= (uint64_t)mmio_read(device->base + DEVICE_FEATURES) << 32 * page;
    }
    wanted_features |= VIRTIO_F_VERSION_1 | VIRTIO_RING_F_EVENT_IDX | VIRTIO_RING_F_INDIRECT_DESC;
    device->features = offered & wanted_features;
    for (unsigned page = 0; page < 2; page++) {
        mmio_write(device->base + DRIVER_FEATURES_SEL, page);
        mmio_write(device->base + DRIVER_FEATURES, (uint32_t)(device->features >> 32 * page));
    }
    add_status(device, FEATURES_OK);
}

void device_queue(struct device *device, struct queue *queue, unsigned index)
{
    mmio_write(device->base + QUEUE_SEL, index);
    uint32_t size = mmio_read(device->base + QUEUE_NUM_MAX);
    if (!size)
        fail("the device has no such queue");
    if (size > MAX_QUEUE_SIZE)
        size = MAX_QUEUE_SIZE;
    memset(queue, 0, sizeof *queue);
    queue->device = device;
    queue->index = index;
    queue->size = (uint16_t)size;
    size_t bytes[] = {16 * size, 6 + 2 * size, 6 + 8 * size};
    void *parts[3];
    for (int i = 0; i < 3; i++) {
        parts[i] = allocate(bytes[i], 4096);
        memset(parts[i], 0, bytes[i]);
        uint64_t at = device->base + QUEUE_DESC + 0x10 * i;
        mmio_write(at, (uint32_t)(uintptr_t)parts[i]);
        mmio_write(at + 4, 0);
    }
    queue->descriptors = parts[0];
    queue->available = parts[1];
    queue->used = parts[2];
    if (!(device->features & VIRTIO_RING_F_EVENT_IDX))
        queue->available[0] = AVAIL_F_NO_INTERRUPT;
    mmio_write(device->base + QUEUE_NUM, size);
    mmio_write(device->base + QUEUE_READY, 1);
}

void device_ready(struct device *device) { add_status(device, DRIVER_OK); }

void device_stop(struct device *device)
{
    mmio_write(device->base + STATUS, 0);
    while (mmio_read(device->base + STATUS))
        relax();
}

uint64_t device_config64(const struct device *device, unsigned offset)
{
    uint64_t base = device->base + CONFIG + offset;
    return mmio_read(base) | (uint64_t)mmio_read(base + 4) << 32;
}

void queue_add(struct queue *queue, uint16_t head)
{
    queue->available[2 + (queue->next_available++ & (queue->size - 1))] = head;
}

void queue_kick(struct queue *queue)
{
    uint16_t old = queue->published, new = queue->next_available;
    bool wanted;

    if (old == new)
        return;
    barrier(); /* x86 keeps stores in order */
    queue->available[1] = new;
    queue->published = new;
    full_barrier();
    if (queue->device->features & VIRTIO_RING_F_EVENT_IDX) {
        uint16_t event = queue->used[2 + 4 * queue->size];
        wanted = (uint16_t)(new - event - 1) < (uint16_t)(new - old);
    } else {
        wanted = !(queue->used[0] & USED_F_NO_NOTIFY);
    }
    if (wanted) {
        queue->kicks++;
        mmio_write(queue->device->base + QUEUE_NOTIFY, queue->index);
    }
}

int queue_take(struct queue *queue, uint32_t *length)
{
    if (queue->used[1] == queue->next_used)
        return -1;
    barrier();
    volatile uint16_t *entry = queue->used + 2 + 4 * (queue->next_used & (queue->size - 1));
    uint16_t id = entry[0];
    if (id >= queue->size)
        fail("a used id is out of range");
    if (length)
        *length = *(volatile uint32_t *)(entry + 2);
    queue->next_used++;
    if (queue->device->features & VIRTIO_RING_F_EVENT_IDX)
        queue->available[2 + queue->size] = queue->next_used + 0x4000; /* never reached: no interrupts */
    return id;
}
