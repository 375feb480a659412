#include "interrupt_status.h"

#include "spin.h"

#include <string.h>
#include <sys/eventfd.h>

#include <linux/virtio_mmio.h>

#define WINDOW 0x1000

static uint32_t signals(const struct pyvmm_interrupt_status *s)
{
    return atomic_load_explicit((_Atomic uint32_t *)s->signals, memory_order_relaxed);
}

/* The driver acknowledges what its last read showed. */
static void acknowledge_used(struct pyvmm_interrupt_status *s)
{
    s->signals_acked = s->signals_seen;
    for (uint32_t i = 0; i < s->count; i++)
        s->used[i].acked = s->used[i].seen;
}

/* Applies the acknowledgements that KVM took as an ioeventfd. Only a read changes what they cover, and each read comes
 * here first, so it does no harm to apply them late. */
static void enter_taken(struct pyvmm_interrupt_status *s)
{
    eventfd_t times;
    if (s->ack_event >= 0 && eventfd_read(s->ack_event, &times) == 0)
        acknowledge_used(s);
}

/* Whether a used ring has moved since the last acknowledgement, or holds entries that the driver has not seen. */
static int moved(struct pyvmm_interrupt_status *s)
{
    s->signals_seen = signals(s);
    int found = s->signals_seen != s->signals_acked;
    for (uint32_t i = 0; i < s->count; i++) {
        struct pyvmm_used *used = &s->used[i];
        used->seen = pyvmm_queue_used_idx(used->queue);
        found |= used->seen != used->acked || pyvmm_queue_driver_is_behind(used->queue, used->seen);
    }
    return found;
}

void pyvmm_interrupt_status_begin(struct pyvmm_interrupt_status *s, uint32_t count)
{
    pyvmm_lock(&s->lock);
    enter_taken(s); /* of a previous driver */
    s->count = count;
    moved(s);
    acknowledge_used(s);
    pyvmm_unlock(&s->lock);
}

void pyvmm_interrupt_status_end(struct pyvmm_interrupt_status *s)
{
    pyvmm_lock(&s->lock);
    s->count = 0;
    pyvmm_unlock(&s->lock);
}

void pyvmm_interrupt_status_set_config(struct pyvmm_interrupt_status *s, int changed)
{
    pyvmm_lock(&s->lock);
    s->config = changed != 0;
    pyvmm_unlock(&s->lock);
}

uint32_t pyvmm_interrupt_status_read(struct pyvmm_interrupt_status *s)
{
    pyvmm_lock(&s->lock);
    enter_taken(s);
    uint32_t status = s->config ? VIRTIO_MMIO_INT_CONFIG : 0;
    if (s->count && moved(s))
        status |= VIRTIO_MMIO_INT_VRING;
    pyvmm_unlock(&s->lock);
    return status;
}

void pyvmm_interrupt_status_acknowledge(struct pyvmm_interrupt_status *s, uint32_t bits)
{
    pyvmm_lock(&s->lock);
    if (bits & VIRTIO_MMIO_INT_VRING)
        acknowledge_used(s);
    if (bits & VIRTIO_MMIO_INT_CONFIG)
        s->config = 0;
    pyvmm_unlock(&s->lock);
}

int pyvmm_interrupt_status_add(struct pyvmm_interrupt_status_table *table, uint64_t address,
                               struct pyvmm_interrupt_status *s)
{
    uint32_t count = atomic_load(&table->count);
    if (count == PYVMM_MAX_INTERRUPT_STATUS)
        return -1;
    table->devices[count].address = address;
    table->devices[count].status = s;
    atomic_store_explicit(&table->count, count + 1, memory_order_release);
    return 0;
}

int pyvmm_interrupt_status_handle(struct pyvmm_interrupt_status_table *table, struct kvm_run *run)
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
            pyvmm_interrupt_status_acknowledge(table->devices[i].status, value);
        } else {
            value = pyvmm_interrupt_status_read(table->devices[i].status);
            memcpy(run->mmio.data, &value, sizeof value);
        }
        return 1;
    }
    return 0;
}
