/* One request: which descriptor it uses, and what is left of it after each system call. */
#include "aio_backend.h"

#include <errno.h>

/* A file system may say so without end. */
#define MAX_INTERRUPTED 200
#define MAX_RETRIES 3

int pyvmm_aio_fd(const struct pyvmm_aio_request *request)
{
    const struct pyvmm_aio_file *file = request->file;
    uint32_t memory = 0;
    if (!file->memory_mask && !file->offset_mask)
        return file->fd;
    if (request->op != PYVMM_AIO_READ && request->op != PYVMM_AIO_WRITE)
        return file->fd;
    for (uint32_t i = 0; i < request->iov_count; i++)
        memory |= (uint32_t)(uintptr_t)request->iov[i].iov_base | (uint32_t)request->iov[i].iov_len;
    if (memory & file->memory_mask ||
        ((uint32_t)(request->offset + request->done) | (uint32_t)(request->length - request->done)) & file->offset_mask)
        return file->unaligned_fd;
    return file->fd;
}

int pyvmm_aio_advance(struct pyvmm_aio_request *request, int64_t returned, int cancelling)
{
    if (returned == -EINTR || returned == -EAGAIN) {
        if (cancelling)
            returned = -ECANCELED;
        else if (request->retries++ < (returned == -EINTR ? MAX_INTERRUPTED : MAX_RETRIES))
            return 0;
    }
    if (returned < 0) {
        request->result = returned;
        return 1;
    }
    if (request->op != PYVMM_AIO_READ && request->op != PYVMM_AIO_WRITE)
        return 1;
    request->done += (uint64_t)returned;
    request->result = (int64_t)request->done;
    if (returned == 0 || request->done >= request->length)
        return 1;
    /* The bytes that were moved are removed from the vector, so they are never moved again. */
    uint64_t moved = (uint64_t)returned;
    while (request->iov_count && moved >= request->iov->iov_len) {
        moved -= request->iov->iov_len;
        request->iov++;
        request->iov_count--;
    }
    if (request->iov_count) {
        request->iov->iov_base = (uint8_t *)request->iov->iov_base + moved;
        request->iov->iov_len -= moved;
    }
    if (cancelling) {
        request->result = -ECANCELED;
        return 1;
    }
    return 0;
}
