/* Asynchronous file I/O: requests go in in batches, run without the GIL, and results come out in batches.
 *
 * An engine belongs to one thread at a time. Two backends do the work that would block: io_uring(7), and a pool of
 * threads where the kernel has none of it. What the page cache can answer at once is answered at once.
 */
#ifndef PYVMM_AIO_H
#define PYVMM_AIO_H

#include <stdint.h>
#include <sys/uio.h>

#define PYVMM_AIO_MAX_DEPTH 4096
#define PYVMM_AIO_MAX_THREADS 64

enum pyvmm_aio_op {
    PYVMM_AIO_READ,
    PYVMM_AIO_WRITE,
    PYVMM_AIO_FDATASYNC,
    PYVMM_AIO_FALLOCATE,
};

/* A file as requests see it; it must outlive them. */
struct pyvmm_aio_file {
    int fd;
    int unaligned_fd; /* the same file without O_DIRECT, for transfers that break one of the masks */
    uint32_t memory_mask; /* bits that must be 0 in addresses and lengths of buffers */
    uint32_t offset_mask; /* bits that must be 0 in the offset and in the whole length */
    uint8_t cached;       /* through the page cache */
    uint8_t nowait;       /* reads may be tried with RWF_NOWAIT first: not with O_DIRECT, where that waits */
};

struct pyvmm_aio_request {
    struct pyvmm_aio_request *next;
    struct pyvmm_aio_file *file;
    /* Native code that hears of the result instead of who reaps; `context`, `data` and `tag` are its own. */
    void (*on_done)(struct pyvmm_aio_request *request);
    void *context, *data;
    uint64_t tag;
    uint64_t offset;
    uint64_t length; /* bytes in all */
    uint64_t done;   /* bytes so far; `iov` and `iov_count` are what is left */
    int64_t result;
    uint32_t flags; /* RWF_* of a transfer, or the mode of fallocate(2) */
    uint8_t op;
    uint8_t retries;
    uint32_t iov_count;
    struct iovec *iov;
    struct iovec *iov_store; /* belongs to the slot, kept for its next request */
    uint32_t iov_room;
};

struct pyvmm_aio_list {
    struct pyvmm_aio_request *first, *last;
};

struct pyvmm_aio_ops;

struct pyvmm_aio {
    int fd;             /* readable when there may be results */
    uint32_t depth;     /* requests that can be under way */
    uint32_t in_use;    /* prepared and not reaped */
    uint32_t prepared;  /* of these, not submitted */
    uint32_t in_flight; /* with the backend */
    uint32_t ready;     /* finished and not reaped */
    uint32_t inline_length; /* bytes of a read that is tried at once; 0 tries none */
    uint32_t inline_total;  /* bytes of reads in one submission that are tried at once */
    uint32_t inline_write;  /* bytes of writes in one submission that are made at once, though they may wait; 0: none */
    uint32_t detained;      /* writes that are not, since one had to wait for long */
    uint64_t inlined; /* requests that never reached the backend */
    int cancelling;   /* nothing is started or continued any more */
    int owner;        /* the process that made it */
    struct pyvmm_aio_list unused, pending, finished;
    struct pyvmm_aio_request *slots;
    const struct pyvmm_aio_ops *ops; /* the backend's functions (aio_backend.h) */
    void *backend;                   /* the backend's own state */
};

struct pyvmm_aio_result {
    uint64_t tag;
    int64_t result;
};

/* An engine for `depth` requests; with `threads` 0 it uses io_uring, else so many threads at most. NULL, and an errno
 * in `error`, where that cannot be. */
struct pyvmm_aio *pyvmm_aio_new(uint32_t depth, uint32_t threads, int *error);

/* Readies a request; the iovecs are copied, their buffers and the file must live until the result is reaped.
 * 0, or an errno negated: EAGAIN when `depth` requests are under way. */
int pyvmm_aio_prepare(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags, uint64_t offset,
                      uint64_t length, const struct iovec *iov, uint32_t iov_count, uint64_t tag);

/* The same for native code, whose `on_done` is called on the engine's thread, from within pyvmm_aio_settle() or
 * pyvmm_aio_reap(). The request, or NULL and an errno in `error`. */
struct pyvmm_aio_request *pyvmm_aio_request(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags,
                                            uint64_t offset, uint64_t length, const struct iovec *iov,
                                            uint32_t iov_count, int *error);

/* Takes in what the backend has finished, without waiting. */
void pyvmm_aio_collect(struct pyvmm_aio *aio);

/* Calls `on_done` of what is finished and has one; the rest stays to be reaped. */
void pyvmm_aio_settle(struct pyvmm_aio *aio);

/* Starts what is prepared; how many are finished. */
int pyvmm_aio_submit(struct pyvmm_aio *aio);

/* Takes up to `max` results, without waiting: how many. A transfer's result is the bytes that were moved, less than
 * asked for only at the end of the file; any other's is 0; or an errno negated. */
int pyvmm_aio_reap(struct pyvmm_aio *aio, struct pyvmm_aio_result *results, int max);

/* Takes in what one system call returned (an errno negated for an error): 1 when the request has its result, 0 when
 * the rest of it must be started. */
int pyvmm_aio_advance(struct pyvmm_aio_request *request, int64_t returned, int cancelling);

/* Waits until nothing is under way any more; with `cancel`, what can still be stopped ends with -ECANCELED. The
 * results are to reap. */
void pyvmm_aio_drain(struct pyvmm_aio *aio, int cancel);

/* Cancels, waits, and releases everything. */
void pyvmm_aio_free(struct pyvmm_aio *aio);

/* What O_DIRECT on `fd` asks of buffers and offsets, in bytes (statx(2), STATX_DIOALIGN, Linux 6.1): 0, or an errno
 * negated, EOPNOTSUPP where the kernel does not say. Alignments of 0 mean no O_DIRECT. */
int pyvmm_aio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset);

#endif
