/* A virtio-mmio device and its queues, driven without interrupts. */
#pragma once

#include "guest.h"

#define VIRTIO_ID_NET 1
#define VIRTIO_ID_BLOCK 2

#define VIRTIO_RING_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_RING_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)

#define DESC_F_NEXT 1
#define DESC_F_WRITE 2
#define DESC_F_INDIRECT 4

#define MAX_QUEUE_SIZE 256

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct device {
    uint64_t base;
    uint64_t features;
};

struct queue {
    const struct device *device;
    unsigned index;
    uint16_t size;
    struct descriptor *descriptors;
    volatile uint16_t *available; /* flags, index, ring, used_event */
    volatile uint16_t *used;      /* flags, index, ring of id and length, avail_event */
    uint16_t next_available;
    uint16_t published;
    uint16_t next_used;
    uint64_t kicks;
};

/* Finds a device of this type in one of the windows that some VMM uses; ends the guest where there is none. */
void device_start(struct device *device, uint32_t type, uint64_t wanted_features);
void device_queue(struct device *device, struct queue *queue, unsigned index);
void device_ready(struct device *device);
void device_stop(struct device *device);
uint64_t device_config64(const struct device *device, unsigned offset);

/* Puts the chain that begins at this descriptor into the available ring; queue_kick publishes it. */
void queue_add(struct queue *queue, uint16_t head);
void queue_kick(struct queue *queue);
/* Takes one used entry: its head, or -1. */
int queue_take(struct queue *queue, uint32_t *length);
