/* The split virtqueue (virtio 1.2, section 2.7): what of it must be exact, bounded and fenced.
 *
 * Every address, index, length and flag in a ring is the guest's and may change while it is read, so each is
 * read once, checked, and only the copy is used.
 */
#ifndef PYVMM_RING_H
#define PYVMM_RING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory.h"

#define PYVMM_MAX_QUEUE_SIZE 32768
/* An indirect table may be longer than its ring in what Linux does, though not in the letter of 2.7.5.3.1. */
#define PYVMM_MAX_CHAIN 1024

/* The rules that a driver can break; returned negated. */
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

/* The buffer that tells another process which chains were in flight here (vhost-user, "Inflight I/O tracking", for
 * a split virtqueue). Shared, so nothing in it is believed further than it can be checked. */
struct pyvmm_inflight_entry {
    uint8_t inflight; /* the chain with this head was taken and is not used yet */
    uint8_t padding[5];
    uint16_t next; /* links the last batch of used heads */
    uint64_t counter; /* the order in which chains were taken */
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
    uint64_t in_flight[PYVMM_MAX_QUEUE_SIZE / 64]; /* heads taken and not completed */
    uint32_t outstanding; /* how many they are */

    /* All of it 0 but where pyvmm_queue_track was called. */
    struct pyvmm_inflight *inflight;
    uint64_t counter;     /* for the next chain taken */
    uint16_t *resubmit;   /* heads that another process left in flight, in the order of their taking */
    uint32_t resubmit_count;
    uint32_t resubmitted; /* of them, taken again */
    uint64_t taken;       /* chains taken from the available ring */
};

/* One chain of a batch; its buffers stand at `first` in the batch's arrays, the readable ones before the
 * writable ones. */
struct pyvmm_chain {
    uint16_t head;
    uint16_t readable; /* buffers that the device reads */
    uint16_t writable; /* buffers that the device writes */
    uint32_t first;
    uint32_t readable_length; /* bytes */
    uint32_t writable_length;
};

/* Sets the queue up over rings at guest addresses; 0, or a rule negated. */
int pyvmm_queue_setup(struct pyvmm_queue *q, struct pyvmm_memory *memory, uint32_t size, uint32_t max_size,
                      uint64_t desc, uint64_t avail, uint64_t used, int event_idx, int indirect);

/* The same rings at other addresses, or the same ones in memory that was mapped anew; 0, or a rule negated, and then
 * the queue must not be used. */
int pyvmm_queue_place(struct pyvmm_queue *q, uint64_t desc, uint64_t avail, uint64_t used);

/* After setup: goes on from available entry `base` and from the used index as it stands in guest memory. */
void pyvmm_queue_resume(struct pyvmm_queue *q, uint16_t base);

/* Bytes that `size` descriptors need of an inflight buffer. */
size_t pyvmm_inflight_size(uint32_t size);

/* After setup: keeps account of chains in flight in `inflight`, of pyvmm_inflight_size() bytes. What is in flight
 * there by a queue that went before is taken first, again, and the queue goes on behind it. `resubmit` has room for
 * as many heads as the queue has. Returns how many those are, or -1 for a buffer of another version or size. */
int pyvmm_queue_track(struct pyvmm_queue *q, struct pyvmm_inflight *inflight, uint16_t *resubmit);

/* Takes up to `max_chains` available chains whose buffers fit into `max_buffers`: how many, or a rule negated
 * when the very first one breaks it. `addresses`, the guest's of each buffer, may be NULL. */
int pyvmm_queue_take(struct pyvmm_queue *q, struct pyvmm_chain *chains, int max_chains, struct iovec *iov,
                     uint64_t *addresses, int max_buffers);

/* Gives the chain that was taken last back to the ring, as if never taken. */
void pyvmm_queue_untake(struct pyvmm_queue *q, uint16_t head);

/* Enters a taken chain in the used ring, not yet visible; 0, or -1 for a head that is not in flight. */
int pyvmm_queue_complete(struct pyvmm_queue *q, uint16_t head, uint32_t written);

/* Makes completed entries visible; 1 when the driver wants an interrupt for them. */
int pyvmm_queue_publish(struct pyvmm_queue *q);

/* Asks the driver for a kick at the next available entry; 1 when one is there already. */
int pyvmm_queue_enable_kick(struct pyvmm_queue *q);

/* Tells the driver that kicks are not needed. A hint: kicks may come all the same. */
void pyvmm_queue_disable_kick(struct pyvmm_queue *q);

/* How many chains the driver has available that were not taken; more than the ring has for a broken index. */
uint16_t pyvmm_queue_available(struct pyvmm_queue *q);

/* The used index as it stands in guest memory. */
uint16_t pyvmm_queue_used_idx(struct pyvmm_queue *q);

/* Whether the driver, by used_event, has not seen all of a used ring that stands at `used_idx` (with EVENT_IDX, section
 * 2.7.7.2). */
int pyvmm_queue_driver_is_behind(struct pyvmm_queue *q, uint16_t used_idx);

#endif
