/* The engine's backend for kernels without io_uring: a pool of threads that never call Python. */
#define _GNU_SOURCE
#include "aio_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* System calls need little stack, but the libraries' thread-local storage lies in it, too. */
#define STACK_SIZE (256 * 1024)

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t work; /* there are requests in `queue` */
    pthread_cond_t idle; /* no thread is at work, and `queue` is empty */
    struct pyvmm_aio_list queue, done;
    uint32_t queued, running, sleeping, count, max;
    int stopping;
    atomic_int cancelling;
    int event;
    struct pyvmm_aio_list fresh; /* accepted, not yet in `queue`; for the engine's thread only */
    pthread_t threads[PYVMM_AIO_MAX_THREADS];
};

static int64_t run_once(const struct pyvmm_aio_request *request)
{
    int64_t returned = -EINVAL;
    int fd = pyvmm_aio_fd(request), count = (int)pyvmm_aio_iov_now(request);
    off_t offset = (off_t)(request->offset + request->done);
    switch (request->op) {
    case PYVMM_AIO_READ:
        returned = preadv2(fd, request->iov, count, offset, (int)request->flags);
        break;
    case PYVMM_AIO_WRITE:
        returned = pwritev2(fd, request->iov, count, offset, (int)request->flags);
        break;
    case PYVMM_AIO_FDATASYNC:
        returned = fdatasync(fd);
        break;
    case PYVMM_AIO_FALLOCATE:
        returned = fallocate(fd, (int)request->flags, offset, (off_t)request->length);
        break;
    }
    return returned < 0 ? -errno : returned;
}

static void *work(void *argument)
{
    struct pool *pool = argument;
    pthread_mutex_lock(&pool->mutex);
    for (;;) {
        struct pyvmm_aio_request *request = pyvmm_aio_pop(&pool->queue);
        if (!request) {
            if (pool->stopping)
                break;
            pool->sleeping++;
            pthread_cond_wait(&pool->work, &pool->mutex);
            pool->sleeping--;
            continue;
        }
        pool->queued--;
        pool->running++;
        pthread_mutex_unlock(&pool->mutex);
        while (!pyvmm_aio_advance(request, run_once(request), atomic_load(&pool->cancelling)))
            ;
        pthread_mutex_lock(&pool->mutex);
        pool->running--;
        int signal = !pool->done.first;
        pyvmm_aio_push(&pool->done, request);
        if (signal)
            eventfd_write(pool->event, 1);
        if (!pool->running && !pool->queue.first)
            pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->mutex);
    return NULL;
}

static int open_pool(struct pyvmm_aio *aio, uint32_t threads)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return ENOMEM;
    pool->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (pool->event < 0) {
        int error = errno;
        free(pool);
        return error;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->idle, NULL);
    pool->max = threads;
    aio->backend = pool;
    aio->fd = pool->event;
    return 0;
}

/* Starts one more thread, with all signals blocked: Python's main thread handles them. */
static int spawn(struct pool *pool)
{
    pthread_attr_t attributes;
    sigset_t all, before;
    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_SIZE);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&pool->threads[pool->count], &attributes, work, pool);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    if (!error) {
        pthread_setname_np(pool->threads[pool->count], "pyvmm-aio");
        pool->count++;
    }
    return error;
}

static void start(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    struct pool *pool = aio->backend;
    pyvmm_aio_push(&pool->fresh, request);
}

static void submit(struct pyvmm_aio *aio)
{
    struct pool *pool = aio->backend;
    struct pyvmm_aio_request *request;
    uint32_t added = 0;

    pthread_mutex_lock(&pool->mutex);
    while ((request = pyvmm_aio_pop(&pool->fresh))) {
        pyvmm_aio_push(&pool->queue, request);
        added++;
    }
    pool->queued += added;
    while (pool->queued > pool->count - pool->running && pool->count < pool->max) {
        int error = spawn(pool);
        if (!error)
            continue;
        if (pool->count == 0) {
            /* The host refuses even the first thread: the requests fail, and the machine goes on. */
            while ((request = pyvmm_aio_pop(&pool->queue))) {
                request->result = -error;
                aio->in_flight--;
                pyvmm_aio_finish(aio, request);
            }
            pool->queued = 0;
        }
        break;
    }
    if (pool->sleeping) {
        if (added > 1)
            pthread_cond_broadcast(&pool->work);
        else
            pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void collect(struct pyvmm_aio *aio)
{
    struct pool *pool = aio->backend;
    struct pyvmm_aio_request *request;
    eventfd_t value;
    if (!aio->in_flight)
        return;
    pthread_mutex_lock(&pool->mutex);
    if (pool->done.first)
        eventfd_read(pool->event, &value);
    while ((request = pyvmm_aio_pop(&pool->done))) {
        aio->in_flight--;
        pyvmm_aio_finish(aio, request);
    }
    pthread_mutex_unlock(&pool->mutex);
}

static void drain(struct pyvmm_aio *aio)
{
    struct pool *pool = aio->backend;
    struct pyvmm_aio_request *request;
    pthread_mutex_lock(&pool->mutex);
    if (aio->cancelling) {
        atomic_store(&pool->cancelling, 1);
        while ((request = pyvmm_aio_pop(&pool->queue))) {
            request->result = -ECANCELED;
            pyvmm_aio_push(&pool->done, request);
        }
        pool->queued = 0;
    }
    while (pool->running || pool->queue.first)
        pthread_cond_wait(&pool->idle, &pool->mutex);
    atomic_store(&pool->cancelling, 0);
    pthread_mutex_unlock(&pool->mutex);
    collect(aio);
}

static void close_pool(struct pyvmm_aio *aio)
{
    struct pool *pool = aio->backend;
    if (getpid() == aio->owner) {
        pthread_mutex_lock(&pool->mutex);
        pool->stopping = 1;
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
        for (uint32_t i = 0; i < pool->count; i++)
            pthread_join(pool->threads[i], NULL);
        pthread_mutex_destroy(&pool->mutex);
        pthread_cond_destroy(&pool->work);
        pthread_cond_destroy(&pool->idle);
    }
    close(pool->event);
    free(pool);
    aio->backend = NULL;
}

const struct pyvmm_aio_ops pyvmm_aio_pool = {
    .open = open_pool,
    .start = start,
    .submit = submit,
    .collect = collect,
    .drain = drain,
    .close = close_pool,
};
