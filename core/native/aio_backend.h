/* The interface between the engine (aio.c) and its backends (aio_uring.c, aio_pool.c). */
#ifndef PYVMM_AIO_BACKEND_H
#define PYVMM_AIO_BACKEND_H

#include <stddef.h>

#include "aio.h"

#define PYVMM_AIO_IOV_MAX 1024 /* UIO_MAXIOV: the kernel refuses more with EINVAL */

static inline void pyvmm_aio_push(struct pyvmm_aio_list *list, struct pyvmm_aio_request *request)
{
    request->next = NULL;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
}

static inline struct pyvmm_aio_request *pyvmm_aio_pop(struct pyvmm_aio_list *list)
{
    struct pyvmm_aio_request *request = list->first;
    if (request) {
        list->first = request->next;
        if (!list->first)
            list->last = NULL;
    }
    return request;
}

static inline void pyvmm_aio_finish(struct pyvmm_aio *aio, struct pyvmm_aio_request *request)
{
    pyvmm_aio_push(&aio->finished, request);
    aio->ready++;
}

static inline uint32_t pyvmm_aio_iov_now(const struct pyvmm_aio_request *request)
{
    return request->iov_count < PYVMM_AIO_IOV_MAX ? request->iov_count : PYVMM_AIO_IOV_MAX;
}

/* The descriptor for the rest of the request: that with O_DIRECT only where the rest is aligned (aio_request.c). */
int pyvmm_aio_fd(const struct pyvmm_aio_request *request);

/* The functions of one backend. All are called on the engine's thread. */
struct pyvmm_aio_ops {
    /* Sets `backend` and `fd` of a new engine. `threads`: how many threads the backend may use, 0 for the one without
     * any. 0, or an errno. */
    int (*open)(struct pyvmm_aio *aio, uint32_t threads);

    /* Accepts one request, which may wait for `submit`. */
    void (*start)(struct pyvmm_aio *aio, struct pyvmm_aio_request *request);

    /* Begins to carry out the requests that `start` accepted. */
    void (*submit)(struct pyvmm_aio *aio);

    /* Calls pyvmm_aio_finish() for each request that has its result. Does not wait. */
    void (*collect)(struct pyvmm_aio *aio);

    /* Waits until no request is in flight, and collects the results. While `cancelling` is set, it cancels what can
     * still be stopped. */
    void (*drain)(struct pyvmm_aio *aio);

    /* Releases what `open` made; after `drain`, or in a fork's copy of the process. */
    void (*close)(struct pyvmm_aio *aio);
};

extern const struct pyvmm_aio_ops pyvmm_aio_uring; /* io_uring(7) */
extern const struct pyvmm_aio_ops pyvmm_aio_pool;  /* threads */

#endif
