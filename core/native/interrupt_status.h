/* A virtio device's registers InterruptStatus and InterruptACK: why it interrupted its driver (virtio 1.2, section
 * 4.2.2).
 *
 * A driver reads the one and writes the other at each interrupt. The vCPU's thread serves both here, without taking the
 * GIL. Most acknowledgements do not even reach the vCPU's thread, since they are an ioeventfd of KVM's.
 */
#ifndef PYVMM_INTERRUPT_STATUS_H
#define PYVMM_INTERRUPT_STATUS_H

#include <stdatomic.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "ring.h"

/* A used ring, and how much of it the driver knows. */
struct pyvmm_used {
    struct pyvmm_queue *queue;
    uint16_t seen;  /* the used index when the driver last read InterruptStatus */
    uint16_t acked; /* the used index that the driver last acknowledged */
};

struct pyvmm_interrupt_status {
    int ack_event; /* eventfd, non-blocking: KVM signals it for each acknowledgement of used rings alone; -1: none */
    uint32_t *signals; /* how often a used ring's interrupt was signalled */
    struct pyvmm_used *used;
    atomic_flag lock; /* protects the fields below */
    uint32_t count;   /* of `used`; 0 while the device is not active */
    uint32_t signals_seen;
    uint32_t signals_acked;
    uint8_t config; /* the configuration changed */
};

#define PYVMM_MAX_INTERRUPT_STATUS 64 /* devices of one machine */

/* The devices of a machine, by the guest address of each one's registers: a page. */
struct pyvmm_interrupt_status_table {
    _Atomic uint32_t count;
    struct {
        uint64_t address;
        struct pyvmm_interrupt_status *status;
    } devices[PYVMM_MAX_INTERRUPT_STATUS];
};

/* Watches the first `count` used rings from now on: each move of theirs is an interrupt to acknowledge. */
void pyvmm_interrupt_status_begin(struct pyvmm_interrupt_status *s, uint32_t count);

/* Watches no used ring any more. */
void pyvmm_interrupt_status_end(struct pyvmm_interrupt_status *s);

/* Sets or clears VIRTIO_MMIO_INT_CONFIG. */
void pyvmm_interrupt_status_set_config(struct pyvmm_interrupt_status *s, int changed);

/* InterruptStatus as the driver reads it: VIRTIO_MMIO_INT_*. */
uint32_t pyvmm_interrupt_status_read(struct pyvmm_interrupt_status *s);

/* InterruptACK: acknowledges `bits`, as far as the last read showed. */
void pyvmm_interrupt_status_acknowledge(struct pyvmm_interrupt_status *s, uint32_t bits);

/* Adds a device whose registers are at `address`. 0, or -1 when there are PYVMM_MAX_INTERRUPT_STATUS. */
int pyvmm_interrupt_status_add(struct pyvmm_interrupt_status_table *table, uint64_t address,
                               struct pyvmm_interrupt_status *s);

/* Handles a vCPU's exit if it is an access to one of the two registers. 1 when it did. */
int pyvmm_interrupt_status_handle(struct pyvmm_interrupt_status_table *table, struct kvm_run *run);

#endif
