#include "ring.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ring.h>

/* vCPUs write guest memory at the same time, and the compiler could split or repeat a plain load. */
#define LOAD16(p) atomic_load_explicit((_Atomic uint16_t *)(p), memory_order_relaxed)
#define LOAD16_ACQUIRE(p) atomic_load_explicit((_Atomic uint16_t *)(p), memory_order_acquire)
#define STORE8_RELEASE(p, v) atomic_store_explicit((_Atomic uint8_t *)(p), (v), memory_order_release)
#define LOAD8(p) atomic_load_explicit((_Atomic uint8_t *)(p), memory_order_relaxed)
#define STORE16(p, v) atomic_store_explicit((_Atomic uint16_t *)(p), (v), memory_order_relaxed)
#define STORE16_RELEASE(p, v) atomic_store_explicit((_Atomic uint16_t *)(p), (v), memory_order_release)
#define STORE32(p, v) atomic_store_explicit((_Atomic uint32_t *)(p), (v), memory_order_relaxed)
#define STORE64(p, v) atomic_store_explicit((_Atomic uint64_t *)(p), (v), memory_order_relaxed)
#define FULL_FENCE() atomic_thread_fence(memory_order_seq_cst)

/* An indirect table may be unaligned, where C's atomics must not be used. This is one plain load of x86-64. */
struct unaligned64 {
    uint64_t value;
} __attribute__((packed));
#define LOAD64(p) (((const volatile struct unaligned64 *)(p))->value)

/* struct vring_avail: flags, idx, ring[size], used_event. struct vring_used: flags, idx, ring[size] of 8
 * bytes, avail_event. */
static inline uint8_t *avail_flags(const struct pyvmm_queue *q) { return q->avail; }
static inline uint8_t *avail_idx(const struct pyvmm_queue *q) { return q->avail + 2; }
static inline uint8_t *avail_ring(const struct pyvmm_queue *q, uint16_t i)
{
    return q->avail + 4 + 2 * (size_t)(i & (q->size - 1));
}
static inline uint8_t *used_event(const struct pyvmm_queue *q) { return q->avail + 4 + 2 * (size_t)q->size; }
static inline uint8_t *used_flags(const struct pyvmm_queue *q) { return q->used; }
static inline uint8_t *used_idx(const struct pyvmm_queue *q) { return q->used + 2; }
static inline uint8_t *used_ring(const struct pyvmm_queue *q, uint16_t i)
{
    return q->used + 4 + 8 * (size_t)(i & (q->size - 1));
}
static inline uint8_t *avail_event(const struct pyvmm_queue *q) { return q->used + 4 + 8 * (size_t)q->size; }

static inline int is_in_flight(const struct pyvmm_queue *q, uint16_t head)
{
    return q->in_flight[head / 64] >> (head % 64) & 1;
}

static inline void flip_in_flight(struct pyvmm_queue *q, uint16_t head)
{
    q->in_flight[head / 64] ^= 1ULL << (head % 64);
}

static int overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

int pyvmm_queue_setup(struct pyvmm_queue *q, struct pyvmm_memory *memory, uint32_t size, uint32_t max_size,
                      uint64_t desc, uint64_t avail, uint64_t used, int event_idx, int indirect)
{
    memset(q, 0, sizeof *q);
    if (size == 0 || size > max_size || size > PYVMM_MAX_QUEUE_SIZE || (size & (size - 1)))
        return -PYVMM_RULE_QUEUE_SIZE;
    q->memory = memory;
    q->size = (uint16_t)size;
    q->event_idx = event_idx != 0;
    q->indirect = indirect != 0;
    return pyvmm_queue_place(q, desc, avail, used);
}

int pyvmm_queue_place(struct pyvmm_queue *q, uint64_t desc, uint64_t avail, uint64_t used)
{
    const struct pyvmm_memory *memory = q->memory;
    uint32_t size = q->size;

    if (desc % VRING_DESC_ALIGN_SIZE || avail % VRING_AVAIL_ALIGN_SIZE || used % VRING_USED_ALIGN_SIZE)
        return -PYVMM_RULE_RING_ALIGNMENT;
    uint64_t desc_size = 16 * (uint64_t)size, avail_size = 6 + 2 * (uint64_t)size, used_size = 6 + 8 * (uint64_t)size;
    q->desc = pyvmm_memory_translate(memory, desc, desc_size);
    q->avail = pyvmm_memory_translate(memory, avail, avail_size);
    q->used = pyvmm_memory_translate(memory, used, used_size);
    if (!q->desc || !q->avail || !q->used)
        return -PYVMM_RULE_RING_ADDRESS;
    if (overlap(desc, desc_size, avail, avail_size) || overlap(desc, desc_size, used, used_size) ||
        overlap(avail, avail_size, used, used_size))
        return -PYVMM_RULE_RING_OVERLAP;
    return 0;
}

void pyvmm_queue_resume(struct pyvmm_queue *q, uint16_t base)
{
    q->next_avail = base;
    q->next_used = q->published = LOAD16(used_idx(q));
}

size_t pyvmm_inflight_size(uint32_t size)
{
    return sizeof(struct pyvmm_inflight) + size * sizeof(struct pyvmm_inflight_entry);
}

/* Records that the heads of a batch are not in flight any more. They form a list that starts at last_batch_head. */
static void settle_batch(struct pyvmm_queue *q, uint16_t batch, uint16_t index)
{
    struct pyvmm_inflight *inflight = q->inflight;
    uint16_t head = LOAD16(&inflight->last_batch_head);

    for (; batch && head < q->size; batch--) {
        STORE8_RELEASE(&inflight->desc[head].inflight, 0);
        head = LOAD16(&inflight->desc[head].next);
    }
    STORE16_RELEASE(&inflight->used_idx, index);
}

struct order {
    uint64_t counter;
    uint16_t head;
};

static int by_counter(const void *a, const void *b)
{
    uint64_t x = ((const struct order *)a)->counter, y = ((const struct order *)b)->counter;
    return (x > y) - (x < y);
}

int pyvmm_queue_track(struct pyvmm_queue *q, struct pyvmm_inflight *inflight, uint16_t *resubmit)
{
    uint16_t version = LOAD16(&inflight->version), index = LOAD16(used_idx(q));

    if (version > 1 || (version && LOAD16(&inflight->desc_num) != q->size))
        return -1;
    struct order *left = calloc(q->size, sizeof *left);
    if (!left)
        return -1;
    q->inflight = inflight;
    if (version) {
        /* The previous process may have ended after it wrote the used index, before it recorded that here. */
        uint16_t batch = (uint16_t)(index - LOAD16(&inflight->used_idx));
        settle_batch(q, batch < q->size ? batch : q->size, index);
        for (uint32_t head = 0; head < q->size; head++) {
            if (LOAD8(&inflight->desc[head].inflight) != 1)
                continue;
            uint64_t counter = LOAD64(&inflight->desc[head].counter);
            left[q->resubmit_count++] = (struct order){counter, (uint16_t)head};
            flip_in_flight(q, (uint16_t)head);
            if (counter >= q->counter)
                q->counter = counter + 1;
        }
        qsort(left, q->resubmit_count, sizeof *left, by_counter);
        for (uint32_t i = 0; i < q->resubmit_count; i++)
            resubmit[i] = left[i].head;
        q->resubmit = resubmit;
        q->outstanding = q->resubmit_count;
        q->next_used = q->published = index;
        /* Each chain that was taken is used or in flight. The base that the front end remembers may be older. */
        q->next_avail = (uint16_t)(index + q->resubmit_count);
    } else {
        STORE16(&inflight->desc_num, q->size);
        STORE16(&inflight->last_batch_head, 0);
        STORE16(&inflight->used_idx, index);
        STORE16_RELEASE(&inflight->version, 1);
    }
    free(left);
    return (int)q->resubmit_count;
}

/* Walks the chain at `head`, and fills `chain` and the buffers from iov[chain->first] on. 0, 1 when the buffers do not
 * fit into `max_buffers`, or a negated rule. */
static int walk(const struct pyvmm_queue *q, uint16_t head, struct pyvmm_chain *chain, struct iovec *iov,
                uint64_t *addresses, int max_buffers)
{
    const uint8_t *table = q->desc;
    uint32_t table_size = q->size, index = head, visited = 0;
    uint64_t readable_length = 0, writable_length = 0;
    int indirect = 0, buffers = (int)chain->first;

    chain->head = head;
    chain->readable = chain->writable = 0;
    for (;;) {
        /* A chain that is longer than its table is a loop. */
        if (visited++ >= table_size)
            return -PYVMM_RULE_CHAIN_LENGTH;
        const uint8_t *entry = table + 16 * (size_t)index;
        uint64_t address = LOAD64(entry), rest = LOAD64(entry + 8);
        uint32_t length = (uint32_t)rest;
        uint16_t flags = (uint16_t)(rest >> 32), next = (uint16_t)(rest >> 48);

        if (flags & VRING_DESC_F_INDIRECT) {
            if (!q->indirect)
                return -PYVMM_RULE_INDIRECT_NOT_NEGOTIATED;
            if (indirect)
                return -PYVMM_RULE_INDIRECT_NESTED;
            if (flags & VRING_DESC_F_NEXT)
                return -PYVMM_RULE_INDIRECT_NEXT;
            uint32_t limit = q->size > PYVMM_MAX_CHAIN ? q->size : PYVMM_MAX_CHAIN;
            if (length == 0 || length % 16 || length / 16 > limit)
                return -PYVMM_RULE_INDIRECT_SIZE;
            table = pyvmm_memory_translate(q->memory, address, length);
            if (!table)
                return -PYVMM_RULE_INDIRECT_ADDRESS;
            table_size = length / 16;
            index = visited = 0;
            indirect = 1;
            continue;
        }
        if (length == 0)
            return -PYVMM_RULE_BUFFER_EMPTY;
        uint8_t *host = pyvmm_memory_translate(q->memory, address, length);
        if (!host)
            return -PYVMM_RULE_BUFFER_ADDRESS;
        if (flags & VRING_DESC_F_WRITE) {
            chain->writable++;
            writable_length += length;
        } else {
            if (chain->writable)
                return -PYVMM_RULE_BUFFER_ORDER;
            chain->readable++;
            readable_length += length;
        }
        if (readable_length + writable_length > UINT32_MAX)
            return -PYVMM_RULE_TOTAL_LENGTH;
        if (buffers >= max_buffers)
            return 1;
        iov[buffers].iov_base = host;
        iov[buffers].iov_len = length;
        if (addresses)
            addresses[buffers] = address;
        buffers++;
        if (!(flags & VRING_DESC_F_NEXT))
            break;
        if (next >= table_size)
            return -PYVMM_RULE_NEXT;
        index = next;
    }
    chain->readable_length = (uint32_t)readable_length;
    chain->writable_length = (uint32_t)writable_length;
    return 0;
}

/* Records that a chain is in flight, also for the process that may replace this one. */
static void account_taken(struct pyvmm_queue *q, uint16_t head)
{
    flip_in_flight(q, head);
    q->outstanding++;
    if (q->inflight) {
        q->taken++;
        STORE64(&q->inflight->desc[head].counter, q->counter++);
        STORE8_RELEASE(&q->inflight->desc[head].inflight, 1);
    }
}

int pyvmm_queue_take(struct pyvmm_queue *q, struct pyvmm_chain *chains, int max_chains, struct iovec *iov,
                     uint64_t *addresses, int max_buffers)
{
    /* Acquire: entries and descriptors are read after the index that covers them. */
    uint16_t available = (uint16_t)(LOAD16_ACQUIRE(avail_idx(q)) - q->next_avail);
    int taken = 0, buffers = 0, rule = 0;

    if (available > q->size)
        return -PYVMM_RULE_AVAIL_INDEX;
    uint32_t again = q->resubmit_count - q->resubmitted;
    while (taken < max_chains && (uint32_t)taken < again + available) {
        int resubmit = (uint32_t)taken < again;
        uint16_t head = resubmit ? q->resubmit[q->resubmitted] : LOAD16(avail_ring(q, q->next_avail));
        struct pyvmm_chain *chain = &chains[taken];
        if (head >= q->size) {
            rule = -PYVMM_RULE_HEAD;
            break;
        }
        if (!resubmit && is_in_flight(q, head)) {
            rule = -PYVMM_RULE_HEAD_IN_FLIGHT;
            break;
        }
        chain->first = (uint32_t)buffers;
        rule = walk(q, head, chain, iov, addresses, max_buffers);
        if (rule > 0 && taken == 0)
            rule = -PYVMM_RULE_CHAIN_LENGTH; /* it can never fit */
        if (rule)
            break;
        buffers += chain->readable + chain->writable;
        if (resubmit) {
            q->resubmitted++; /* it is in flight already */
        } else {
            account_taken(q, head);
            q->next_avail++;
        }
        taken++;
    }
    return taken == 0 && rule < 0 ? rule : taken;
}

void pyvmm_queue_untake(struct pyvmm_queue *q, uint16_t head)
{
    if (head >= q->size || !is_in_flight(q, head))
        return;
    if (q->resubmitted && q->taken == 0) {
        q->resubmitted--;
        return;
    }
    flip_in_flight(q, head);
    q->outstanding--;
    q->next_avail--;
    if (q->inflight) {
        q->taken--;
        STORE8_RELEASE(&q->inflight->desc[head].inflight, 0);
    }
}

int pyvmm_queue_complete(struct pyvmm_queue *q, uint16_t head, uint32_t written)
{
    if (head >= q->size || !is_in_flight(q, head))
        return -1;
    flip_in_flight(q, head);
    q->outstanding--;
    if (q->inflight) {
        STORE16(&q->inflight->desc[head].next, LOAD16(&q->inflight->last_batch_head));
        STORE16_RELEASE(&q->inflight->last_batch_head, head);
    }
    uint8_t *entry = used_ring(q, q->next_used);
    STORE32(entry, head);
    STORE32(entry + 4, written);
    q->next_used++;
    return 0;
}

int pyvmm_queue_publish(struct pyvmm_queue *q)
{
    uint16_t old = q->published;
    if (q->next_used == old)
        return 0;
    /* Release: the driver sees the entries, and what the device wrote into buffers, before the index. */
    STORE16_RELEASE(used_idx(q), q->next_used);
    q->published = q->next_used;
    if (q->inflight)
        settle_batch(q, (uint16_t)(q->published - old), q->published);
    /* The index must be visible before the driver's flags or used_event are read, or both sides sleep (2.7.7.2). */
    FULL_FENCE();
    if (!q->event_idx)
        return !(LOAD16(avail_flags(q)) & VRING_AVAIL_F_NO_INTERRUPT);
    return vring_need_event(LOAD16(used_event(q)), q->published, old);
}

int pyvmm_queue_enable_kick(struct pyvmm_queue *q)
{
    if (q->event_idx)
        STORE16(avail_event(q), q->next_avail);
    else
        STORE16(used_flags(q), 0);
    /* This must be visible before the index is read again, or a kick is lost (2.7.10.1). */
    FULL_FENCE();
    return LOAD16_ACQUIRE(avail_idx(q)) != q->next_avail;
}

void pyvmm_queue_disable_kick(struct pyvmm_queue *q)
{
    /* With EVENT_IDX, the old avail_event already suppresses kicks. */
    if (!q->event_idx)
        STORE16(used_flags(q), VRING_USED_F_NO_NOTIFY);
}

uint16_t pyvmm_queue_available(struct pyvmm_queue *q)
{
    return (uint16_t)(LOAD16(avail_idx(q)) - q->next_avail);
}

uint16_t pyvmm_queue_used_idx(struct pyvmm_queue *q)
{
    return LOAD16(used_idx(q));
}

int pyvmm_queue_driver_is_behind(struct pyvmm_queue *q, uint16_t index)
{
    return q->event_idx && LOAD16(used_event(q)) != index;
}
