/* The device's side of a split virtqueue (virtio 1.2, section 2.7), with its bounds checks and memory barriers.
 *
 * * The guest writes every address, index, length and flag in a ring, and may change it at any time. So each is read
 * once, and only the copy is checked and used.
 */
#ifndef PYVMM_RING_H
#define PYVMM_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory.h"

#define PYVMM_MAX_QUEUE_SIZE 32768
/* Linux's drivers use indirect tables that are longer than the ring, though section 2.7.5.3.1 forbids it. */
#define PYVMM_MAX_CHAIN 1024

/* The rules that a driver can break. Functions return them negated. */
enum pyvmm_rule {
    PYVMM_RULE_QUEUE_SIZE = 1,
    PYVMM_RULE_RING_ALIGNMENT,
    PYVMM_RULE_RING_ADDRESS,
    PYVMM_RULE_RING_OVERLAP,
    PYVMM_RULE_AVAIL_INDEX,
    PYVMM_RULE_HEAD,
    PYVMM_RULE_HEAD_IN_FLIGHT,
    PYVMM_RULE_NEXT,
    PYVMM_RULE_CHAIN_LENGTH,
    PYVMM_RULE_INDIRECT_NOT_NEGOTIATED,
    PYVMM_RULE_INDIRECT_NEXT,
    PYVMM_RULE_INDIRECT_NESTED,
    PYVMM_RULE_INDIRECT_SIZE,
    PYVMM_RULE_INDIRECT_ADDRESS,
    PYVMM_RULE_BUFFER_EMPTY,
    PYVMM_RULE_BUFFER_ADDRESS,
    PYVMM_RULE_BUFFER_ORDER,
    PYVMM_RULE_TOTAL_LENGTH,
    PYVMM_RULE_COUNT,
};

/* A buffer shared with another process that records which chains are in flight (vhost-user, "Inflight I/O tracking",
 * for a split virtqueue). Since the other process can write it, each value is checked before it is used. */
struct pyvmm_inflight_entry {
    uint8_t inflight; /* 1: the chain with this head was taken and is not used yet */
    uint8_t padding[5];
    uint16_t next; /* links the last batch of used heads */
    uint64_t counter; /* says in which order chains were taken */
};

struct pyvmm_inflight {
    uint64_t features;
    uint16_t version; /* 1; 0 before the first use */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct pyvmm_inflight_entry desc[];
};

struct pyvmm_queue {
    struct pyvmm_memory *memory;
    uint16_t size;
    uint8_t event_idx; /* VIRTIO_F_EVENT_IDX was negotiated */
    uint8_t indirect;  /* VIRTIO_F_INDIRECT_DESC was negotiated */
    uint16_t next_avail; /* the next available entry to take */
    uint16_t next_used;  /* the next used entry to fill */
    uint16_t published;  /* the used index as the driver sees it */
    uint8_t *desc;
    uint8_t *avail;
    uint8_t *used;
    uint64_t in_flight[PYVMM_MAX_QUEUE_SIZE / 64]; /* a bit for each head that was taken and not completed */
    uint32_t outstanding; /* their number */

    /* All 0 unless pyvmm_queue_track() was called. */
    struct pyvmm_inflight *inflight;
    uint64_t counter;     /* for the next chain that is taken */
    uint16_t *resubmit;   /* heads that a previous process left in flight, in the order in which it took them */
    uint32_t resubmit_count;
    uint32_t resubmitted; /* of them, those taken again */
    uint64_t taken;       /* chains taken from the available ring */
};

/* One chain of a batch. Its buffers start at index `first` of the batch's arrays: first the readable ones, then the
 * writable ones. */
struct pyvmm_chain {
    uint16_t head;
    uint16_t readable; /* number of buffers that the device reads */
    uint16_t writable; /* number of buffers that the device writes */
    uint32_t first;
    uint32_t readable_length; /* bytes */
    uint32_t writable_length;
};

/* Sets up a queue whose rings are at the given guest addresses. 0, or a negated rule. */
int pyvmm_queue_setup(struct pyvmm_queue *q, struct pyvmm_memory *memory, uint32_t size, uint32_t max_size,
                      uint64_t desc, uint64_t avail, uint64_t used, int event_idx, int indirect);

/* Moves the queue to rings at other addresses, or to the same ones after guest memory was mapped anew. 0, or a negated
 * rule; after that the queue must not be used. */
int pyvmm_queue_place(struct pyvmm_queue *q, uint64_t desc, uint64_t avail, uint64_t used);

/* After setup: continues at available entry `base`, and at the used index that is in guest memory. */
void pyvmm_queue_resume(struct pyvmm_queue *q, uint16_t base);

/* The size, in bytes, of an inflight buffer for a queue of `size` descriptors. */
size_t pyvmm_inflight_size(uint32_t size);

/* After setup: records the chains in flight in `inflight`, of pyvmm_inflight_size() bytes. Chains that a previous
 * process left in flight there are taken again, before any new one. `resubmit` has room for as many heads as the queue
 * has. Returns the number of chains to be taken again, or -1 if the buffer is for another version or queue size. */
int pyvmm_queue_track(struct pyvmm_queue *q, struct pyvmm_inflight *inflight, uint16_t *resubmit);

/* Takes up to `max_chains` available chains, as far as their buffers fit into `max_buffers`. Returns their number, or a
 * negated rule when the first one breaks it. `addresses` receives the guest address of each buffer, and may be NULL. */
int pyvmm_queue_take(struct pyvmm_queue *q, struct pyvmm_chain *chains, int max_chains, struct iovec *iov,
                     uint64_t *addresses, int max_buffers);

/* Undoes the taking of the chain that was taken last. */
void pyvmm_queue_untake(struct pyvmm_queue *q, uint16_t head);

/* Adds a taken chain to the used ring; the driver does not see it yet. 0, or -1 if the head is not in flight. */
int pyvmm_queue_complete(struct pyvmm_queue *q, uint16_t head, uint32_t written);

/* Makes the completed entries visible to the driver. 1 when it wants an interrupt for them. */
int pyvmm_queue_publish(struct pyvmm_queue *q);

/* Asks the driver for a kick at the next available entry. 1 when there is one already. */
int pyvmm_queue_enable_kick(struct pyvmm_queue *q);

/* Tells the driver that kicks are not needed. It is a hint: kicks may still come. */
void pyvmm_queue_disable_kick(struct pyvmm_queue *q);

/* The number of available chains that were not taken; more than the queue size if the index breaks the rules. */
uint16_t pyvmm_queue_available(struct pyvmm_queue *q);

/* The used index in guest memory. */
uint16_t pyvmm_queue_used_idx(struct pyvmm_queue *q);

/* Whether the driver, by its used_event, has not yet seen all used entries up to `used_idx`; 0 without EVENT_IDX
 * (section 2.7.7.2). */
int pyvmm_queue_driver_is_behind(struct pyvmm_queue *q, uint16_t used_idx);

#endif
