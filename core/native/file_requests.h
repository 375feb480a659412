/* Read and write requests of a ring, carried out on a file, many in one call.
 *
 * * Each request is a header, data and a status. A device describes their format, and which of them are plain
 * transfers: reads and writes without a fault. Those are carried out here, from the available to the used ring, without
 * Python. Any other request is left to the device.
 */
#ifndef PYVMM_FILE_REQUESTS_H
#define PYVMM_FILE_REQUESTS_H

#include "aio.h"
#include "ring.h"

#define PYVMM_FILE_REQUESTS_MAX_HEADER 64

enum pyvmm_file_requests_stop {
    PYVMM_FILE_REQUESTS_EMPTY = 0,  /* the ring has no more chains; the driver was asked to kick */
    PYVMM_FILE_REQUESTS_OTHER = 1,  /* `chain` was taken, and the device must serve it */
    PYVMM_FILE_REQUESTS_BUDGET = 2, /* `max_requests` or `max_bytes` is reached; there may be more */
    PYVMM_FILE_REQUESTS_FULL = 3,   /* the engine is full; a result will make room */
    PYVMM_FILE_REQUESTS_AGAIN = 4,  /* interrupt the driver, then call again, for the rest; never with `loop` */
};

struct pyvmm_file_requests {
    /* Set by the caller. A header has a type of 32 bits and a position of 64 bits, both little-endian. The data of a
     * write follows the header; the data of a read precedes the status, which is one byte. */
    struct pyvmm_aio *aio;
    struct pyvmm_aio_file *file;
    uint32_t header_size;
    uint32_t type_offset;
    uint32_t position_offset;
    uint32_t unit; /* bytes: positions count such units, and data is a multiple of one */
    uint64_t end;  /* bytes of the file, from its start, that requests may reach */
    uint32_t read_type;
    uint32_t write_type;
    uint8_t writable; /* requests of write_type are plain transfers */
    uint8_t status_done;
    uint8_t status_failed;
    uint32_t write_flags;  /* RWF_* */
    uint32_t max_requests; /* that one call takes */
    uint64_t max_bytes;
    /* Nanoseconds to poll an empty ring before the driver is asked for a kick; 0 for never. A kick costs the guest an
     * exit and this process a wake-up. Polling that finds nothing becomes shorter, then rare. */
    uint32_t max_poll;
    /* The event loop's epoll descriptor, which waits for `kick`, the engine's descriptor, and others; or -1. With it
     * the call waits for more requests itself, as long as no other descriptor of the loop is ready. */
    int loop;
    int kick;            /* an eventfd that the driver's kicks signal */
    int call;            /* an eventfd that interrupts the driver, or -1 for none */
    uint64_t idle_until; /* when the loop's next timer is due: nanoseconds of CLOCK_MONOTONIC */
    uint32_t max_buffers; /* elements of `iov` and `addresses`: enough for the longest chain */
    struct iovec *iov;
    uint64_t *addresses; /* guest addresses of the buffers of `chain` */

    /* Set by each call. */
    uint8_t interrupt;        /* the driver wants an interrupt */
    uint32_t calls;           /* interrupts signalled at `call`; only with `loop` */
    struct pyvmm_chain chain; /* with PYVMM_FILE_REQUESTS_OTHER; its buffers are in `iov` */

    /* Counted since the start. */
    uint64_t finished;     /* transfers completed */
    uint64_t failed;       /* of them, those that failed */
    uint64_t told;         /* of those, the ones that the caller knows of: it sets this, and no call waits before */
    int error;             /* of the last that failed: an errno, ENODATA at the end of the file */
    uint8_t error_write;   /* whether it was a write */
    uint64_t error_offset; /* in bytes */

    struct pyvmm_queue *queue;
    uint32_t poll;     /* nanoseconds that the next poll takes */
    uint32_t unpolled; /* how often in a row polling was skipped */
};

/* Completes finished transfers, takes chains, and starts those that are plain transfers. Publishes what is complete
 * before it returns: enum pyvmm_file_requests_stop, or a negated enum pyvmm_rule. The queue must stay the same while
 * any transfer is under way. */
int pyvmm_file_requests_move(struct pyvmm_queue *q, struct pyvmm_file_requests *r);

#endif
