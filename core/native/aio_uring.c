/* The engine's backend on io_uring(7), without liburing. Both rings have the engine's depth, so neither can overflow.
 */
#define _GNU_SOURCE
#include "aio_backend.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct uring {
    int fd;
    uint32_t flags; /* IORING_SETUP_* */
    uint8_t *rings;
    size_t rings_size, sqes_size;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    _Atomic uint32_t *sq_head, *sq_tail, *sq_flags, *cq_head, *cq_tail;
    uint32_t sq_mask, cq_mask;
    uint32_t tail;    /* of the submission ring, entries that are not submitted included */
    uint32_t started; /* entries that are not submitted */
};

static long enter(const struct uring *ring, uint32_t submit, uint32_t wait, uint32_t flags)
{
    long result = syscall(__NR_io_uring_enter, ring->fd, submit, wait, flags, NULL, 0);
    return result < 0 ? -errno : result;
}

static int supported(int fd)
{
    static const uint8_t needed[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ, IORING_OP_WRITE,
                                     IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_ASYNC_CANCEL};
    struct io_uring_probe *probe = calloc(1, sizeof *probe + 256 * sizeof probe->ops[0]);
    int result = 0;
    if (probe && !syscall(__NR_io_uring_register, fd, IORING_REGISTER_PROBE, probe, 256)) {
        result = 1;
        for (size_t i = 0; i < sizeof needed; i++)
            if (needed[i] > probe->last_op || !(probe->ops[needed[i]].flags & IO_URING_OP_SUPPORTED))
                result = 0;
    }
    free(probe);
    return result;
}

static int open_uring(struct pyvmm_aio *aio, uint32_t threads)
{
    /* COOP_TASKRUN (Linux 5.19): completions wait for the thread's next system call instead of interrupting it. */
    static const uint32_t flags[] = {
        IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    struct io_uring_params params;
    struct uring *ring = calloc(1, sizeof *ring);
    int error = 0;

    if (!ring)
        return ENOMEM;
    ring->fd = -1;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        memset(&params, 0, sizeof params);
        params.flags = flags[i];
        ring->flags = flags[i];
        ring->fd = (int)syscall(__NR_io_uring_setup, aio->depth, &params);
        error = ring->fd < 0 ? errno : 0;
        if (error != EINVAL)
            break;
    }
    if (!error && !(params.features & IORING_FEAT_SINGLE_MMAP && params.features & IORING_FEAT_NODROP))
        error = ENOSYS;
    if (!error && !supported(ring->fd))
        error = ENOSYS;
    if (error) {
        if (ring->fd >= 0)
            close(ring->fd);
        free(ring);
        return error;
    }
    size_t sq_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    size_t cq_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
    ring->rings_size = sq_size > cq_size ? sq_size : cq_size;
    ring->sqes_size = params.sq_entries * sizeof(struct io_uring_sqe);
    ring->rings =
        mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQ_RING);
    ring->sqes =
        mmap(NULL, ring->sqes_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd, IORING_OFF_SQES);
    if (ring->rings == MAP_FAILED || ring->sqes == MAP_FAILED) {
        error = errno;
        if (ring->rings != MAP_FAILED)
            munmap(ring->rings, ring->rings_size);
        if (ring->sqes != MAP_FAILED)
            munmap(ring->sqes, ring->sqes_size);
        close(ring->fd);
        free(ring);
        return error;
    }
    ring->sq_head = (_Atomic uint32_t *)(ring->rings + params.sq_off.head);
    ring->sq_tail = (_Atomic uint32_t *)(ring->rings + params.sq_off.tail);
    ring->sq_flags = (_Atomic uint32_t *)(ring->rings + params.sq_off.flags);
    ring->cq_head = (_Atomic uint32_t *)(ring->rings + params.cq_off.head);
    ring->cq_tail = (_Atomic uint32_t *)(ring->rings + params.cq_off.tail);
    ring->sq_mask = params.sq_entries - 1;
    ring->cq_mask = params.cq_entries - 1;
    ring->cqes = (struct io_uring_cqe *)(ring->rings + params.cq_off.cqes);
    uint32_t *array = (uint32_t *)(ring->rings + params.sq_off.array);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i;
    aio->backend = ring;
    aio->fd = ring->fd; /* readable while there are completions, so no eventfd is needed */
    return 0;
}

static struct io_uring_sqe *next_sqe(struct uring *ring)
{
    struct io_uring_sqe *sqe = &ring->sqes[ring->tail++ & ring->sq_mask];
    ring->started++;
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

static void start(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    struct io_uring_sqe *sqe = next_sqe(aio->backend);
    sqe->fd = pyvmm_aio_fd(request);
    sqe->off = request->offset + request->done;
    sqe->user_data = (uint64_t)(uintptr_t)request;
    switch (request->op) {
    case PYVMM_AIO_READ:
    case PYVMM_AIO_WRITE:
        sqe->rw_flags = (int)request->flags;
        if (request->iov_count == 1) {
            sqe->opcode = request->op == PYVMM_AIO_READ ? IORING_OP_READ : IORING_OP_WRITE;
            sqe->addr = (uint64_t)(uintptr_t)request->iov->iov_base;
            sqe->len = request->iov->iov_len > 0x7ffff000 ? 0x7ffff000 : (uint32_t)request->iov->iov_len;
        } else {
            sqe->opcode = request->op == PYVMM_AIO_READ ? IORING_OP_READV : IORING_OP_WRITEV;
            sqe->addr = (uint64_t)(uintptr_t)request->iov;
            sqe->len = pyvmm_aio_iov_now(request);
        }
        break;
    case PYVMM_AIO_FDATASYNC:
        sqe->opcode = IORING_OP_FSYNC;
        sqe->off = 0;
        sqe->fsync_flags = IORING_FSYNC_DATASYNC;
        break;
    case PYVMM_AIO_FALLOCATE:
        sqe->opcode = IORING_OP_FALLOCATE;
        sqe->addr = request->length;
        sqe->len = request->flags;
        break;
    }
    if (request->retries)
        sqe->flags = IOSQE_ASYNC; /* a kernel thread may wait for what EAGAIN was about */
}

static void finish(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    aio->in_flight--;
    pyvmm_aio_finish(aio, request);
}

/* Takes all completions. The rest of a request that is not finished is started. */
static void take_completions(struct pyvmm_aio *aio)
{
    struct uring *ring = aio->backend;
    uint32_t head = atomic_load_explicit(ring->cq_head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(ring->cq_tail, memory_order_acquire);
    while (head != tail) {
        const struct io_uring_cqe *cqe = &ring->cqes[head++ & ring->cq_mask];
        struct pyvmm_aio_request *request = (struct pyvmm_aio_request *)(uintptr_t)cqe->user_data;
        if (!request)
            continue; /* the completion of a cancellation */
        if (pyvmm_aio_advance(request, cqe->res, aio->cancelling))
            finish(aio, request);
        else
            start(aio, request);
    }
    atomic_store_explicit(ring->cq_head, head, memory_order_release);
}

/* Hands the entries that were filled to the kernel. */
static void hand_over(struct pyvmm_aio *aio)
{
    struct uring *ring = aio->backend;
    atomic_store_explicit(ring->sq_tail, ring->tail, memory_order_release);
    while (ring->started) {
        long taken = enter(ring, ring->started, 0, 0);
        if (taken > 0) {
            ring->started -= (uint32_t)taken;
        } else if (taken != -EINTR) {
            /* The kernel is out of memory: these requests fail, and the machine goes on. */
            uint32_t head = ring->tail - ring->started;
            for (uint32_t i = head; i != ring->tail; i++) {
                struct pyvmm_aio_request *request =
                    (struct pyvmm_aio_request *)(uintptr_t)ring->sqes[i & ring->sq_mask].user_data;
                if (request) {
                    request->result = taken ? taken : -EAGAIN;
                    finish(aio, request);
                }
            }
            ring->tail = head;
            ring->started = 0;
            atomic_store_explicit(ring->sq_tail, head, memory_order_release);
        }
    }
}

static void collect(struct pyvmm_aio *aio)
{
    struct uring *ring = aio->backend;
    if (!aio->in_flight)
        return;
    if (atomic_load_explicit(ring->sq_flags, memory_order_relaxed) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
        enter(ring, 0, 0, IORING_ENTER_GETEVENTS);
    take_completions(aio);
    while (ring->started) {
        hand_over(aio);
        take_completions(aio);
    }
}

static void submit(struct pyvmm_aio *aio)
{
    hand_over(aio);
    collect(aio);
}

static void drain(struct pyvmm_aio *aio)
{
    struct uring *ring = aio->backend;
    collect(aio);
    if (aio->cancelling && aio->in_flight) {
        struct io_uring_sqe *sqe = next_sqe(ring);
        sqe->opcode = IORING_OP_ASYNC_CANCEL;
        sqe->fd = -1;
        sqe->cancel_flags = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY;
        hand_over(aio);
        take_completions(aio);
    }
    while (aio->in_flight) {
        if (ring->started)
            hand_over(aio);
        else
            enter(ring, 0, 1, IORING_ENTER_GETEVENTS);
        take_completions(aio);
    }
    collect(aio);
}

static void close_uring(struct pyvmm_aio *aio)
{
    struct uring *ring = aio->backend;
    munmap(ring->sqes, ring->sqes_size);
    munmap(ring->rings, ring->rings_size);
    close(ring->fd);
    free(ring);
    aio->backend = NULL;
}

const struct pyvmm_aio_ops pyvmm_aio_uring = {
    .open = open_uring,
    .start = start,
    .submit = submit,
    .collect = collect,
    .drain = drain,
    .close = close_uring,
};
