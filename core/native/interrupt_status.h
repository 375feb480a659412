/* Why a virtio device interrupted its driver: the registers InterruptStatus and InterruptACK (virtio 1.2, section
 * 4.2.2).
 *
 * A driver reads the one and writes the other at each interrupt. The vCPU's thread answers both here, without Python's
 * interpreter and its lock; most acknowledgements do not even get that far, since KVM takes them as an ioeventfd.
 */
#ifndef PYVMM_INTERRUPT_STATUS_H
#define PYVMM_INTERRUPT_STATUS_H

#include <stdatomic.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "ring.h"

/* A used ring, and how far the driver was told of it. */
struct pyvmm_used {
    struct pyvmm_queue *queue;
    uint16_t seen;  /* its index when the driver looked last */
    uint16_t acked; /* the one that it acknowledged last */
};

struct pyvmm_interrupt_status {
    int ack_event; /* eventfd, non-blocking: KVM signals it for an acknowledgement of used rings alone; -1 for none */
    uint32_t *signals; /* how often a used ring's interrupt was signalled */
    struct pyvmm_used *used;
    atomic_flag lock; /* of what is below */
    uint32_t count;   /* of `used`; 0 while the device is not active */
    uint32_t signals_seen;
    uint32_t signals_acked;
    uint8_t config; /* the configuration changed */
};

#define PYVMM_MAX_INTERRUPT_STATUS 64 /* devices of one machine */

/* Those of a machine's devices, by their windows' addresses: whole pages. */
struct pyvmm_interrupt_status_table {
    _Atomic uint32_t count;
    struct {
        uint64_t address;
        struct pyvmm_interrupt_status *status;
    } devices[PYVMM_MAX_INTERRUPT_STATUS];
};

/* From here on the first `count` used rings count, as far as they move. */
void pyvmm_interrupt_status_begin(struct pyvmm_interrupt_status *s, uint32_t count);

/* No used ring counts any more, and none is looked at. */
void pyvmm_interrupt_status_end(struct pyvmm_interrupt_status *s);

/* The configuration changed, or it is forgotten that it did. */
void pyvmm_interrupt_status_set_config(struct pyvmm_interrupt_status *s, int changed);

/* InterruptStatus: VIRTIO_MMIO_INT_*. */
uint32_t pyvmm_interrupt_status_read(struct pyvmm_interrupt_status *s);

/* InterruptACK. */
void pyvmm_interrupt_status_acknowledge(struct pyvmm_interrupt_status *s, uint32_t bits);

/* Enters a device whose window is at `address`; 0, or -1 when there are too many. */
int pyvmm_interrupt_status_add(struct pyvmm_interrupt_status_table *table, uint64_t address,
                               struct pyvmm_interrupt_status *s);

/* Handles an exit of a vCPU if it is about one of the two registers: 1 when it did. */
int pyvmm_interrupt_status_handle(struct pyvmm_interrupt_status_table *table, struct kvm_run *run);

#endif
