#include "interrupt_status.h"

#include "spin.h"

#include <string.h>
#include <sys/eventfd.h>

#include <linux/virtio_mmio.h>

#define WINDOW 0x1000

static uint32_t signals(const struct pyvmm_causes *c)
{
    return atomic_load_explicit((_Atomic uint32_t *)c->signals, memory_order_relaxed);
}

/* What the driver saw when it looked last is acknowledged. */
static void acknowledge_used(struct pyvmm_causes *c)
{
    c->signals_acked = c->signals_seen;
    for (uint32_t i = 0; i < c->count; i++)
        c->used[i].acked = c->used[i].seen;
}

/* KVM has taken acknowledgements. What was seen did not change since, so they can be entered now as well as then. */
static void enter_taken(struct pyvmm_causes *c)
{
    eventfd_t times;
    if (c->ack_event >= 0 && eventfd_read(c->ack_event, &times) == 0)
        acknowledge_used(c);
}

/* Looks at the used rings, whether they have moved since the driver's acknowledgement or hold what it has not seen. */
static int moved(struct pyvmm_causes *c)
{
    c->signals_seen = signals(c);
    int found = c->signals_seen != c->signals_acked;
    for (uint32_t i = 0; i < c->count; i++) {
        struct pyvmm_used *used = &c->used[i];
        used->seen = pyvmm_queue_used_idx(used->queue);
        found |= used->seen != used->acked || pyvmm_queue_driver_is_behind(used->queue, used->seen);
    }
    return found;
}

void pyvmm_causes_begin(struct pyvmm_causes *c, uint32_t count)
{
    pyvmm_lock(&c->lock);
    enter_taken(c); /* of a driver that went before */
    c->count = count;
    moved(c);
    acknowledge_used(c);
    pyvmm_unlock(&c->lock);
}

void pyvmm_causes_end(struct pyvmm_causes *c)
{
    pyvmm_lock(&c->lock);
    c->count = 0;
    pyvmm_unlock(&c->lock);
}

void pyvmm_causes_set_config(struct pyvmm_causes *c, int changed)
{
    pyvmm_lock(&c->lock);
    c->config = changed != 0;
    pyvmm_unlock(&c->lock);
}

uint32_t pyvmm_causes_status(struct pyvmm_causes *c)
{
    pyvmm_lock(&c->lock);
    enter_taken(c);
    uint32_t status = c->config ? VIRTIO_MMIO_INT_CONFIG : 0;
    if (c->count && moved(c))
        status |= VIRTIO_MMIO_INT_VRING;
    pyvmm_unlock(&c->lock);
    return status;
}

void pyvmm_causes_acknowledge(struct pyvmm_causes *c, uint32_t causes)
{
    pyvmm_lock(&c->lock);
    if (causes & VIRTIO_MMIO_INT_VRING)
        acknowledge_used(c);
    if (causes & VIRTIO_MMIO_INT_CONFIG)
        c->config = 0;
    pyvmm_unlock(&c->lock);
}

int pyvmm_causes_add(struct pyvmm_causes_table *table, uint64_t address, struct pyvmm_causes *c)
{
    uint32_t count = atomic_load(&table->count);
    if (count == PYVMM_MAX_CAUSES)
        return -1;
    table->devices[count].address = address;
    table->devices[count].causes = c;
    atomic_store_explicit(&table->count, count + 1, memory_order_release);
    return 0;
}

int pyvmm_causes_handle(struct pyvmm_causes_table *table, struct kvm_run *run)
{
    if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.len != 4)
        return 0;
    uint64_t offset = run->mmio.phys_addr % WINDOW, address = run->mmio.phys_addr - offset;
    if (offset != (run->mmio.is_write ? VIRTIO_MMIO_INTERRUPT_ACK : VIRTIO_MMIO_INTERRUPT_STATUS))
        return 0;
    uint32_t count = atomic_load_explicit(&table->count, memory_order_acquire), value;
    for (uint32_t i = 0; i < count; i++) {
        if (table->devices[i].address != address)
            continue;
        if (run->mmio.is_write) {
            memcpy(&value, run->mmio.data, sizeof value);
            pyvmm_causes_acknowledge(table->devices[i].causes, value);
        } else {
            value = pyvmm_causes_status(table->devices[i].causes);
            memcpy(run->mmio.data, &value, sizeof value);
        }
        return 1;
    }
    return 0;
}
