/* Asynchronous file I/O: requests are submitted in batches, run without the GIL, and results are reaped in batches.
 *
 * An engine belongs to one thread at a time. It answers what the page cache can answer by itself; a backend carries out
 * what may block: io_uring(7), or a pool of threads on kernels without io_uring.
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

/* The file of a request; it must outlive the request. */
struct pyvmm_aio_file {
    int fd;
    int unaligned_fd; /* the same file without O_DIRECT, for reads and writes that break a mask */
    uint32_t memory_mask; /* bits that must be 0 in the address and the length of each buffer */
    uint32_t offset_mask; /* bits that must be 0 in the offset and the total length */
    uint8_t cached;       /* opened without O_DIRECT: it goes through the page cache */
    uint8_t nowait;       /* reads are tried with RWF_NOWAIT first; 0 with O_DIRECT, which waits all the same */
};

struct pyvmm_aio_request {
    struct pyvmm_aio_request *next;
    struct pyvmm_aio_file *file;
    /* Called with the result, which is then not reaped; NULL for none. `context`, `data` and `tag` are the callback's.
     */
    void (*on_done)(struct pyvmm_aio_request *request);
    void *context, *data;
    uint64_t tag;
    uint64_t offset;
    uint64_t length; /* bytes in total */
    uint64_t done;   /* bytes so far; `iov` and `iov_count` are the buffers that are left */
    int64_t result;
    uint32_t flags; /* RWF_* for a read or a write, the mode for fallocate(2) */
    uint8_t op;
    uint8_t retries;
    uint32_t iov_count;
    struct iovec *iov;
    struct iovec *iov_store; /* allocated for this slot, and kept for its next request */
    uint32_t iov_room;
};

struct pyvmm_aio_list {
    struct pyvmm_aio_request *first, *last;
};

struct pyvmm_aio_ops;

struct pyvmm_aio {
    int fd;             /* readable when there may be results */
    uint32_t depth;     /* the most requests that can be in use */
    uint32_t in_use;    /* requests prepared and not reaped */
    uint32_t prepared;  /* of them, those not submitted */
    uint32_t in_flight; /* of them, those that the backend has */
    uint32_t ready;     /* of them, those finished */
    uint32_t inline_length; /* the longest read, in bytes, that is tried from the page cache first; 0 for none */
    uint32_t inline_total;  /* bytes of reads that one submission tries so */
    uint32_t inline_write;  /* bytes of writes that one submission makes itself, though they may block; 0 for none */
    uint32_t detained;      /* the next so many writes go to the backend, since one blocked for too long */
    uint64_t inline_write_time; /* nanoseconds after which a write has blocked for too long */
    uint64_t inlined; /* requests that never reached the backend */
    int cancelling;   /* no request is started or continued any more */
    int owner;        /* the process that made the engine */
    struct pyvmm_aio_list unused, pending, finished;
    struct pyvmm_aio_request *slots;
    const struct pyvmm_aio_ops *ops; /* the backend's functions (aio_backend.h) */
    void *backend;                   /* the backend's own state */
};

struct pyvmm_aio_result {
    uint64_t tag;
    int64_t result;
};

/* A new engine for up to `depth` requests. With `threads` 0 it uses io_uring, otherwise up to that many threads. NULL,
 * and an errno in `error`, on failure. */
struct pyvmm_aio *pyvmm_aio_new(uint32_t depth, uint32_t threads, int *error);

/* Prepares a request. The iovecs are copied; their buffers and the file must live until the result is reaped. 0, or a
 * negated errno: EAGAIN when `depth` requests are in use. */
int pyvmm_aio_prepare(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags, uint64_t offset,
                      uint64_t length, const struct iovec *iov, uint32_t iov_count, uint64_t tag);

/* The same for native code: the caller sets `on_done` of the request that is returned. It is called on the engine's
 * thread, by pyvmm_aio_settle() or pyvmm_aio_reap(). NULL, and an errno in `error`, on failure. */
struct pyvmm_aio_request *pyvmm_aio_request(struct pyvmm_aio *aio, struct pyvmm_aio_file *file, int op, uint32_t flags,
                                            uint64_t offset, uint64_t length, const struct iovec *iov,
                                            uint32_t iov_count, int *error);

/* Fetches the results that the backend has. Does not wait. */
void pyvmm_aio_collect(struct pyvmm_aio *aio);

/* Calls `on_done` of each finished request that has one. The other results stay to be reaped. */
void pyvmm_aio_settle(struct pyvmm_aio *aio);

/* Starts all prepared requests. Returns how many requests are finished. */
int pyvmm_aio_submit(struct pyvmm_aio *aio);

/* Takes up to `max` results and returns their number. Does not wait. The result of a read or a write is the number of
 * bytes, fewer than asked for only at the end of the file; of any other request 0; or a negated errno. */
int pyvmm_aio_reap(struct pyvmm_aio *aio, struct pyvmm_aio_result *results, int max);

/* Accounts for what one system call returned, a negated errno for an error. 1 when the request has its result, 0 when
 * the rest of it must be started (aio_request.c). */
int pyvmm_aio_advance(struct pyvmm_aio_request *request, int64_t returned, int cancelling);

/* Waits until all requests are finished; with `cancel`, those that can still be stopped end with -ECANCELED. The
 * results stay to be reaped. */
void pyvmm_aio_drain(struct pyvmm_aio *aio, int cancel);

/* Cancels, waits, and releases everything. */
void pyvmm_aio_free(struct pyvmm_aio *aio);

/* The alignments, in bytes, that O_DIRECT on `fd` needs of buffers and of offsets (statx(2), STATX_DIOALIGN, Linux
 * 6.1). Alignments of 0 mean that the file has no O_DIRECT. 0, or a negated errno: EOPNOTSUPP where the kernel does not
 * say. */
int pyvmm_aio_direct_alignment(int fd, uint32_t *memory, uint32_t *offset);

#endif
