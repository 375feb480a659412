#include "file_requests.h"

#include <errno.h>
#include <string.h>

#include "memory.h"
#include "wait.h"

/* The shortest transfer, in bytes, for which it pays to make huge pages of its buffers. */
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
    struct pyvmm_file_requests *r = request->context;
    volatile uint8_t *status = request->data;
    int whole = request->result == (int64_t)request->length;

    r->finished++;
    if (!whole) {
        r->failed++;
        r->error = request->result < 0 ? (int)-request->result : ENODATA;
        r->error_write = request->op == PYVMM_AIO_WRITE;
        r->error_offset = request->offset;
    }
    *status = whole ? r->status_done : r->status_failed;
    /* The used length counts from the first writable byte (virtio 1.2, 2.7.8.2), and the status is the last one. */
    pyvmm_queue_complete(r->queue, (uint16_t)(request->tag >> 32), (uint32_t)request->tag);
}

/* Prepares the request if the chain is a plain transfer. 1 if it is, 0 if not, -EAGAIN when the engine is full. */
static int start(struct pyvmm_file_requests *r)
{
    const struct pyvmm_chain *chain = &r->chain;
    uint8_t header[PYVMM_FILE_REQUESTS_MAX_HEADER];
    uint32_t type;
    uint64_t position, length;
    int error;

    if (chain->readable_length < r->header_size || !chain->writable_length)
        return 0;
    gather(r->iov, header, r->header_size);
    memcpy(&type, header + r->type_offset, sizeof type);
    memcpy(&position, header + r->position_offset, sizeof position);
    int write = r->writable && type == r->write_type;
    if (!write && type != r->read_type)
        return 0;
    length = write ? chain->readable_length - r->header_size : chain->writable_length - 1;
    if (length == 0 || length % r->unit || length > r->end || position > (r->end - length) / r->unit)
        return 0;

    struct iovec *iov = r->iov, *last = r->iov + chain->readable + chain->writable - 1;
    uint8_t *status = (uint8_t *)last->iov_base + last->iov_len - 1;
    uint32_t count, skip = r->header_size;
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
    if (!r->file->cached && length >= JOIN_LENGTH)
        for (uint32_t i = 0; i < count; i++)
            pyvmm_memory_join(r->queue->memory, iov[i].iov_base, iov[i].iov_len);
    uint64_t tag = (uint64_t)chain->head << 32 | chain->writable_length;
    struct pyvmm_aio_request *request =
        pyvmm_aio_request(r->aio, r->file, write ? PYVMM_AIO_WRITE : PYVMM_AIO_READ, write ? r->write_flags : 0,
                          position * r->unit, length, iov, count, &error);
    if (!request && error == EAGAIN)
        return -EAGAIN;
    if (!request) {
        struct pyvmm_aio_request none = {.context = r, .data = status, .tag = tag, .length = length, .result = -error};
        on_done(&none);
        return 1;
    }
    request->on_done = on_done;
    request->context = r;
    request->data = status;
    request->tag = tag;
    return 1;
}

#define LOOKS_A_TIME_CHECK 16
#define TIMES_UNPOLLED 16

/* Polls the ring for a moment; whether there are chains. Not while requests are in flight, since a kernel thread that
 * carries them out may need this CPU. */
static int poll(struct pyvmm_file_requests *r)
{
    if (!r->max_poll || r->aio->in_flight)
        return 0;
    if (!r->poll) {
        if (++r->unpolled < TIMES_UNPOLLED)
            return 0;
        r->poll = r->max_poll;
    }
    r->unpolled = 0;
    uint64_t end = pyvmm_monotonic_ns() + r->poll;
    do {
        for (int i = 0; i < LOOKS_A_TIME_CHECK; i++) {
            if (pyvmm_queue_available(r->queue)) {
                r->poll = r->max_poll;
                return 1;
            }
            __builtin_ia32_pause();
        }
    } while (pyvmm_monotonic_ns() < end);
    r->poll = r->poll > r->max_poll / 8 ? r->poll / 2 : 0;
    return 0;
}

/* Sleeps until a kick or a result comes. 0 when anything else of the loop is ready, too. */
static int wait_for_more(struct pyvmm_file_requests *r)
{
    const int ours[] = {r->kick, r->aio->fd};
    uint32_t ready = pyvmm_wait_readable(r->loop, r->idle_until, ours, 2);

    if (ready & 1)
        pyvmm_eventfd_drain(r->kick);
    return ready != 0;
}

/* Publishes what is complete, and interrupts the driver if it wants that. 0 if the caller must interrupt it. */
static int publish(struct pyvmm_queue *q, struct pyvmm_file_requests *r)
{
    if (!pyvmm_queue_publish(q))
        return 1;
    if (r->loop < 0) {
        r->interrupt = 1;
        return 0;
    }
    r->calls++;
    pyvmm_eventfd_signal(r->call);
    return 1;
}

/* So that a driver that kicks without need cannot keep the call from returning. */
#define MAX_WAITS 256

int pyvmm_file_requests_move(struct pyvmm_queue *q, struct pyvmm_file_requests *r)
{
    uint32_t requests = 0, waits = 0;
    uint64_t bytes = 0;
    int stop = PYVMM_FILE_REQUESTS_BUDGET;

    r->queue = q;
    r->interrupt = 0;
    r->calls = 0;
    pyvmm_aio_collect(r->aio);
    pyvmm_aio_settle(r->aio);
    pyvmm_queue_disable_kick(q);
    while (requests < r->max_requests && bytes < r->max_bytes) {
        int taken = pyvmm_queue_take(q, &r->chain, 1, r->iov, r->addresses, (int)r->max_buffers);
        if (taken == 0) {
            /* First start what the driver waits for, then ask it for a kick. */
            pyvmm_aio_submit(r->aio);
            pyvmm_aio_settle(r->aio);
            if ((r->max_poll || r->loop >= 0) && !publish(q, r))
                return PYVMM_FILE_REQUESTS_AGAIN;
            if (poll(r)) {
                requests++; /* counted, or a driver that takes its index back could keep the call from returning */
                continue;
            }
            if (!pyvmm_queue_enable_kick(q)) {
                /* Failures, and results of requests that are not transfers, are for Python. */
                if (r->failed != r->told || r->aio->ready || !wait_for_more(r)) {
                    stop = PYVMM_FILE_REQUESTS_EMPTY;
                    break;
                }
                if (++waits == MAX_WAITS)
                    break; /* Python looks for signals */
                pyvmm_aio_collect(r->aio);
                pyvmm_aio_settle(r->aio);
                pyvmm_queue_disable_kick(q);
                continue;
            }
            pyvmm_queue_disable_kick(q);
            taken = pyvmm_queue_take(q, &r->chain, 1, r->iov, r->addresses, (int)r->max_buffers);
            if (taken == 0) {
                requests++; /* the driver took its index back; counted as above */
                continue;
            }
        }
        if (taken < 0) {
            stop = taken;
            break;
        }
        requests++;
        bytes += r->chain.readable_length + r->chain.writable_length;
        int started = start(r);
        if (started == 0) {
            stop = PYVMM_FILE_REQUESTS_OTHER;
            break;
        }
        if (started < 0) {
            pyvmm_queue_untake(q, r->chain.head);
            pyvmm_aio_submit(r->aio);
            pyvmm_aio_settle(r->aio);
            if (r->aio->unused.first)
                continue;
            stop = PYVMM_FILE_REQUESTS_FULL;
            break;
        }
    }
    pyvmm_aio_submit(r->aio);
    pyvmm_aio_settle(r->aio);
    publish(q, r);
    return stop;
}
