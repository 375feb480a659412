/* What the engine and its backends know of each other. */
#ifndef PYVMM_AIO_BACKEND_H
#define PYVMM_AIO_BACKEND_H

#include <stddef.h>

#include "aio.h"

#define PYVMM_AIO_IOV_MAX 1024 /* UIO_MAXIOV: more make EINVAL */

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

/* The descriptor for what is left of the request: O_DIRECT only where it is aligned. */
int pyvmm_aio_fd(const struct pyvmm_aio_request *request);

int pyvmm_aio_uring_open(struct pyvmm_aio *aio);
void pyvmm_aio_uring_start(struct pyvmm_aio *aio, struct pyvmm_aio_request *request);
void pyvmm_aio_uring_submit(struct pyvmm_aio *aio);
void pyvmm_aio_uring_collect(struct pyvmm_aio *aio);
void pyvmm_aio_uring_drain(struct pyvmm_aio *aio);
void pyvmm_aio_uring_close(struct pyvmm_aio *aio);

int pyvmm_aio_pool_open(struct pyvmm_aio *aio, uint32_t threads);
void pyvmm_aio_pool_start(struct pyvmm_aio *aio, struct pyvmm_aio_request *request);
void pyvmm_aio_pool_submit(struct pyvmm_aio *aio);
void pyvmm_aio_pool_collect(struct pyvmm_aio *aio);
void pyvmm_aio_pool_drain(struct pyvmm_aio *aio);
void pyvmm_aio_pool_close(struct pyvmm_aio *aio);

#endif
