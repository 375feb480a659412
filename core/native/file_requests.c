#include "file_requests.h"

#include <errno.h>
#include <string.h>

#include "memory.h"
#include "wait.h"

/* Bytes of a transfer from which on it is worth the time that huge pages take to make. */
#define JOIN_LENGTH (256 * 1024)

/* Copies the first `size` bytes of the buffers. */
static void gather(const struct iovec *iov, uint8_t *to, size_t size)
{
    for (; size; iov++) {
        size_t part = iov->iov_len < size ? iov->iov_len : size;
        memcpy(to, iov->iov_base, part);
        to += part;
        size -= part;
    }
}

static void on_done(struct pyvmm_aio_request *request)
{
    struct pyvmm_transfer *t = request->context;
    volatile uint8_t *status = request->data;
    int whole = request->result == (int64_t)request->length;

    t->finished++;
    if (!whole) {
        t->failed++;
        t->error = request->result < 0 ? (int)-request->result : ENODATA;
        t->error_write = request->op == PYVMM_AIO_WRITE;
        t->error_offset = request->offset;
    }
    *status = whole ? t->status_done : t->status_failed;
    /* The status is last, and a used length counts from the first writable byte (virtio 1.2, 2.7.8.2). */
    pyvmm_queue_complete(t->queue, (uint16_t)(request->tag >> 32), (uint32_t)request->tag);
}

/* Readies the chain if it is a plain transfer: 1; 0 when it is not; -EAGAIN when the engine is full. */
static int start(struct pyvmm_transfer *t)
{
    const struct pyvmm_chain *chain = &t->chain;
    uint8_t header[PYVMM_TRANSFER_MAX_HEADER];
    uint32_t type;
    uint64_t position, length;
    int error;

    if (chain->readable_length < t->header_size || !chain->writable_length)
        return 0;
    gather(t->iov, header, t->header_size);
    memcpy(&type, header + t->type_offset, sizeof type);
    memcpy(&position, header + t->position_offset, sizeof position);
    int write = t->writable && type == t->write_type;
    if (!write && type != t->read_type)
        return 0;
    length = write ? chain->readable_length - t->header_size : chain->writable_length - 1;
    if (length == 0 || length % t->unit || length > t->end || position > (t->end - length) / t->unit)
        return 0;

    struct iovec *iov = t->iov, *last = t->iov + chain->readable + chain->writable - 1;
    uint8_t *status = (uint8_t *)last->iov_base + last->iov_len - 1;
    uint32_t count, skip = t->header_size;
    if (write) {
        count = chain->readable;
        while (skip >= iov->iov_len) {
            skip -= (uint32_t)iov->iov_len;
            iov++;
            count--;
        }
        iov->iov_base = (uint8_t *)iov->iov_base + skip;
        iov->iov_len -= skip;
    } else {
        iov += chain->readable;
        count = chain->writable;
        if (--last->iov_len == 0)
            count--;
    }
    if (!t->file->cached && length >= JOIN_LENGTH)
        for (uint32_t i = 0; i < count; i++)
            pyvmm_memory_join(t->queue->memory, iov[i].iov_base, iov[i].iov_len);
    uint64_t tag = (uint64_t)chain->head << 32 | chain->writable_length;
    struct pyvmm_aio_request *request =
        pyvmm_aio_request(t->aio, t->file, write ? PYVMM_AIO_WRITE : PYVMM_AIO_READ, write ? t->write_flags : 0,
                          position * t->unit, length, iov, count, &error);
    if (!request && error == EAGAIN)
        return -EAGAIN;
    if (!request) {
        struct pyvmm_aio_request none = {.context = t, .data = status, .tag = tag, .length = length, .result = -error};
        on_done(&none);
        return 1;
    }
    request->on_done = on_done;
    request->context = t;
    request->data = status;
    request->tag = tag;
    return 1;
}

#define LOOKS_A_TIME_CHECK 16
#define TIMES_UNPOLLED 16

/* Waits a moment for chains, awake: whether there are some. Not while requests are under way, for who carries them
 * out may need this CPU. */
static int poll(struct pyvmm_transfer *t)
{
    if (!t->max_poll || t->aio->in_flight)
        return 0;
    if (!t->poll) {
        if (++t->unpolled < TIMES_UNPOLLED)
            return 0;
        t->poll = t->max_poll;
    }
    t->unpolled = 0;
    uint64_t end = pyvmm_loop_time() + t->poll;
    do {
        for (int i = 0; i < LOOKS_A_TIME_CHECK; i++) {
            if (pyvmm_queue_available(t->queue)) {
                t->poll = t->max_poll;
                return 1;
            }
            __builtin_ia32_pause();
        }
    } while (pyvmm_loop_time() < end);
    t->poll = t->poll > t->max_poll / 8 ? t->poll / 2 : 0;
    return 0;
}

/* Waits for a kick or a result, asleep; whether one came, and nothing else. */
static int wait_for_more(struct pyvmm_transfer *t)
{
    const int ours[] = {t->kick, t->aio->fd};
    uint32_t ready = pyvmm_loop_wait(t->loop, t->idle_until, ours, 2);

    if (ready & 1)
        pyvmm_loop_drain(t->kick);
    return ready != 0;
}

/* Shows the driver what is complete, and interrupts it if it wants that; 0 if that is the caller's to do. */
static int publish(struct pyvmm_queue *q, struct pyvmm_transfer *t)
{
    if (!pyvmm_queue_publish(q))
        return 1;
    if (t->loop < 0) {
        t->interrupt = 1;
        return 0;
    }
    t->calls++;
    pyvmm_loop_signal(t->call);
    return 1;
}

/* A driver that kicks for nothing does not keep us here for ever. */
#define MAX_WAITS 256

int pyvmm_transfer_move(struct pyvmm_queue *q, struct pyvmm_transfer *t)
{
    uint32_t requests = 0, waits = 0;
    uint64_t bytes = 0;
    int stop = PYVMM_TRANSFER_BUDGET;

    t->queue = q;
    t->interrupt = 0;
    t->calls = 0;
    pyvmm_aio_collect(t->aio);
    pyvmm_aio_settle(t->aio);
    pyvmm_queue_disable_kick(q);
    while (requests < t->max_requests && bytes < t->max_bytes) {
        int taken = pyvmm_queue_take(q, &t->chain, 1, t->iov, t->addresses, (int)t->max_buffers);
        if (taken == 0) {
            /* Before the driver is asked for a kick, what it waits for is under way. */
            pyvmm_aio_submit(t->aio);
            pyvmm_aio_settle(t->aio);
            if ((t->max_poll || t->loop >= 0) && !publish(q, t))
                return PYVMM_TRANSFER_AGAIN;
            if (poll(t)) {
                requests++; /* a driver that takes its index back must not keep us here */
                continue;
            }
            if (!pyvmm_queue_enable_kick(q)) {
                /* Python is to hear of what failed, and of results that are no transfer's. */
                if (t->failed != t->told || t->aio->ready || !wait_for_more(t)) {
                    stop = PYVMM_TRANSFER_EMPTY;
                    break;
                }
                if (++waits == MAX_WAITS)
                    break; /* Python looks for signals */
                pyvmm_aio_collect(t->aio);
                pyvmm_aio_settle(t->aio);
                pyvmm_queue_disable_kick(q);
                continue;
            }
            pyvmm_queue_disable_kick(q);
            taken = pyvmm_queue_take(q, &t->chain, 1, t->iov, t->addresses, (int)t->max_buffers);
            if (taken == 0) {
                requests++; /* the driver took its index back: not for ever */
                continue;
            }
        }
        if (taken < 0) {
            stop = taken;
            break;
        }
        requests++;
        bytes += t->chain.readable_length + t->chain.writable_length;
        int started = start(t);
        if (started == 0) {
            stop = PYVMM_TRANSFER_OTHER;
            break;
        }
        if (started < 0) {
            pyvmm_queue_untake(q, t->chain.head);
            pyvmm_aio_submit(t->aio);
            pyvmm_aio_settle(t->aio);
            if (t->aio->unused.first)
                continue;
            stop = PYVMM_TRANSFER_FULL;
            break;
        }
    }
    pyvmm_aio_submit(t->aio);
    pyvmm_aio_settle(t->aio);
    publish(q, t);
    return stop;
}
