#define _GNU_SOURCE
#include "aio_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/stat.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wait.h"

/* To copy 64 KiB takes about as long as to hand the request over. More than a few such copies would delay the loop. */
#define INLINE_LENGTH (64 * 1024)
#define INLINE_TOTAL (256 * 1024)

/* A write that takes more nanoseconds than this has blocked for too long: then the backend makes the next so many. */
#define INLINE_WRITE_TIME 2000000
#define INLINE_WRITE_DETAINED 256

struct pyvmm_aio *pyvmm_aio_new(uint32_t depth, uint32_t threads, int *error)
{
    struct pyvmm_aio *aio = NULL;
    *error = EINVAL;
    if (depth == 0 || depth > PYVMM_AIO_MAX_DEPTH || threads > PYVMM_AIO_MAX_THREADS)
        return NULL;
    aio = calloc(1, sizeof *aio);
    if (aio)
        aio->slots = calloc(depth, sizeof *aio->slots);
    if (!aio || !aio->slots) {
        free(aio);
        *error = ENOMEM;
        return NULL;
    }
    aio->fd = -1;
    aio->depth = depth;
    aio->inline_length = INLINE_LENGTH;
    aio->inline_total = INLINE_TOTAL;
    aio->inline_write_time = INLINE_WRITE_TIME;
    aio->owner = getpid();
    for (uint32_t i = 0; i < depth; i++)
        pyvmm_aio_push(&aio->unused, &aio->slots[i]);
    aio->ops = threads ? &pyvmm_aio_pool : &pyvmm_aio_uring;
    *error = aio->ops->open(aio, threads);
    if (*error) {
        free(aio->slots);
        free(aio);
        return NULL;
    }
    return aio;
}

struct pyvmm_aio_request *pyvmm_aio_request(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags,
                                            uint64_t offset, uint64_t length, const struct iovec *iov,
                                            uint32_t iov_count, int *error)
{
    struct pyvmm_aio_request *request = aio->unused.first;
    int transfer = op == PYVMM_AIO_READ || op == PYVMM_AIO_WRITE;
    *error = op < PYVMM_AIO_READ || op > PYVMM_AIO_FALLOCATE ? EINVAL : EAGAIN;
    if (*error == EINVAL || !request)
        return NULL;
    if (!transfer)
        iov_count = 0;
    if (iov_count > request->iov_room) {
        /* Kept for the next request: a slot soon has room for the longest request of its device. */
        uint32_t room = iov_count < 4 ? 4 : iov_count;
        struct iovec *store = realloc(request->iov_store, room * sizeof *store);
        if (!store) {
            *error = ENOMEM;
            return NULL;
        }
        request->iov_store = store;
        request->iov_room = room;
    }
    if (transfer) {
        length = 0;
        for (uint32_t i = 0; i < iov_count; i++) {
            request->iov_store[i] = iov[i];
            length += iov[i].iov_len;
        }
    }
    pyvmm_aio_pop(&aio->unused);
    request->file = file;
    request->on_done = NULL;
    request->offset = offset;
    request->length = length;
    request->done = 0;
    request->result = 0;
    request->flags = flags;
    request->op = (uint8_t)op;
    request->retries = 0;
    request->iov = request->iov_store;
    request->iov_count = iov_count;
    pyvmm_aio_push(&aio->pending, request);
    aio->in_use++;
    aio->prepared++;
    return request;
}

int pyvmm_aio_prepare(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags, uint64_t offset,
                      uint64_t length, const struct iovec *iov, uint32_t iov_count, uint64_t tag)
{
    int error;
    struct pyvmm_aio_request *request =
        pyvmm_aio_request(aio, file, op, flags, offset, length, iov, iov_count, &error);
    if (!request)
        return -error;
    request->tag = tag;
    return 0;
}

/* Reads what the page cache has. 1 when the request has its result. */
static int try_at_once(struct pyvmm_aio_request *request)
{
    ssize_t moved = preadv2(request->file->fd, request->iov, (int)pyvmm_aio_iov_now(request), (off_t)request->offset,
                            (int)request->flags | RWF_NOWAIT);
    if (moved < 0) {
        if (errno == EOPNOTSUPP)
            request->file->nowait = 0;
        /* An error that lasts will reach the backend, too. */
        return 0;
    }
    return pyvmm_aio_advance(request, moved, 0);
}

/* Writes into the page cache. This takes a few microseconds, unless the kernel has to make room there or wait for the
 * disk; in that case the backend makes the next writes. 1 when the request has its result. */
static int write_at_once(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    uint64_t begin = pyvmm_monotonic_ns();
    ssize_t moved =
        pwritev(request->file->fd, request->iov, (int)pyvmm_aio_iov_now(request), (off_t)request->offset);
    int result = pyvmm_aio_advance(request, moved < 0 ? -errno : moved, 0);
    if (pyvmm_monotonic_ns() - begin > aio->inline_write_time)
        aio->detained = INLINE_WRITE_DETAINED;
    return result;
}

int pyvmm_aio_submit(struct pyvmm_aio *aio)
{
    struct pyvmm_aio_request *request;
    uint32_t started = 0;
    uint64_t left = aio->inline_total, left_to_write = aio->inline_write;

    while ((request = pyvmm_aio_pop(&aio->pending))) {
        aio->prepared--;
        int transfer = request->op == PYVMM_AIO_READ || request->op == PYVMM_AIO_WRITE;
        if (transfer && request->length == 0) {
            pyvmm_aio_finish(aio, request);
            aio->inlined++;
            continue;
        }
        if (request->op == PYVMM_AIO_READ && request->file->nowait && request->length <= aio->inline_length &&
            request->length <= left) {
            left -= request->length;
            if (try_at_once(request)) {
                pyvmm_aio_finish(aio, request);
                aio->inlined++;
                continue;
            }
        }
        if (request->op == PYVMM_AIO_WRITE && request->file->cached && !request->flags &&
            request->length <= left_to_write) {
            if (aio->detained) {
                aio->detained--;
            } else {
                left_to_write -= request->length;
                if (write_at_once(aio, request)) {
                    pyvmm_aio_finish(aio, request);
                    aio->inlined++;
                    continue;
                }
            }
        }
        aio->in_flight++;
        started++;
        aio->ops->start(aio, request);
    }
    if (started)
        aio->ops->submit(aio);
    return (int)aio->ready;
}

void pyvmm_aio_collect(struct pyvmm_aio *aio)
{
    aio->ops->collect(aio);
}

static struct pyvmm_aio_request *pop_finished(struct pyvmm_aio *aio)
{
    struct pyvmm_aio_request *request = pyvmm_aio_pop(&aio->finished);
    if (request)
        aio->ready--;
    return request;
}

static void release(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    aio->in_use--;
    pyvmm_aio_push(&aio->unused, request);
}

void pyvmm_aio_settle(struct pyvmm_aio *aio)
{
    struct pyvmm_aio_list others = {NULL, NULL};
    struct pyvmm_aio_request *request;
    uint32_t count = 0;
    while ((request = pop_finished(aio))) {
        if (request->on_done) {
            request->on_done(request);
            release(aio, request);
        } else {
            pyvmm_aio_push(&others, request);
            count++;
        }
    }
    aio->finished = others;
    aio->ready = count;
}

int pyvmm_aio_reap(struct pyvmm_aio *aio, struct pyvmm_aio_result *results, int max)
{
    struct pyvmm_aio_request *request;
    int count = 0;
    pyvmm_aio_collect(aio);
    while (count < max && (request = pop_finished(aio))) {
        if (request->on_done) {
            request->on_done(request);
        } else {
            results[count].tag = request->tag;
            results[count].result = request->result;
            count++;
        }
        release(aio, request);
    }
    return count;
}

void pyvmm_aio_drain(struct pyvmm_aio *aio, int cancel)
{
    struct pyvmm_aio_request *request;
    if (getpid() != aio->owner)
        return; /* a copy made by fork(2): the requests are the parent's */
    if (cancel) {
        aio->cancelling = 1;
        while ((request = pyvmm_aio_pop(&aio->pending))) {
            aio->prepared--;
            request->result = -ECANCELED;
            pyvmm_aio_finish(aio, request);
        }
    } else {
        pyvmm_aio_submit(aio);
    }
    aio->ops->drain(aio);
    aio->cancelling = 0;
}

void pyvmm_aio_free(struct pyvmm_aio *aio)
{
    pyvmm_aio_drain(aio, 1);
    aio->ops->close(aio);
    for (uint32_t i = 0; i < aio->depth; i++)
        free(aio->slots[i].iov_store);
    free(aio->slots);
    free(aio);
}

int pyvmm_aio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset)
{
#ifdef STATX_DIOALIGN
    struct statx status;
    memset(&status, 0, sizeof status);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status))
        return -errno;
    if (!(status.stx_mask & STATX_DIOALIGN))
        return -EOPNOTSUPP;
    *memory = status.stx_dio_mem_align;
    *offset = status.stx_dio_offset_align;
    return 0;
#else
    return -EOPNOTSUPP;
#endif
}
