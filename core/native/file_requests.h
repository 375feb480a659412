/* Requests that are a header, data and a status, moved between a ring and a file, many to a call.
 *
 * A device says what its requests look like and which of them are plain transfers. Those are carried out here, from
 * the available to the used ring, without a look from Python; any other request, also one that is a transfer but for
 * a fault, is left to the device.
 */
#ifndef PYVMM_FILE_REQUESTS_H
#define PYVMM_FILE_REQUESTS_H

#include "aio.h"
#include "ring.h"

#define PYVMM_FILE_REQUESTS_MAX_HEADER 64

enum pyvmm_file_requests_stop {
    PYVMM_FILE_REQUESTS_EMPTY = 0,  /* the ring has no (more) chains; the driver was asked to kick */
    PYVMM_FILE_REQUESTS_OTHER = 1,  /* `chain` was taken and is the device's to serve */
    PYVMM_FILE_REQUESTS_BUDGET = 2, /* enough for this time; there may be more */
    PYVMM_FILE_REQUESTS_FULL = 3,   /* the engine is; a result will make room */
    PYVMM_FILE_REQUESTS_AGAIN = 4,  /* the ring has no more chains, but may soon: interrupt the driver, then call again. Not
                                * with `loop` */
};

struct pyvmm_file_requests {
    /* What the caller sets. A header has a type of 32 bits and a position of 64, both little-endian; readable data
     * comes after it, writable data before the status, one byte. */
    struct pyvmm_aio *aio;
    struct pyvmm_aio_file *file;
    uint32_t header_size;
    uint32_t type_offset;
    uint32_t position_offset;
    uint32_t unit; /* bytes that a position counts, and data comes in */
    uint64_t end;  /* bytes of the file that may be reached */
    uint32_t read_type;
    uint32_t write_type;
    uint8_t writable; /* requests of write_type are transfers */
    uint8_t status_done;
    uint8_t status_failed;
    uint32_t write_flags;  /* RWF_* */
    uint32_t max_requests; /* of one call */
    uint64_t max_bytes;
    /* Nanoseconds that an empty ring is looked at before the driver is asked for a kick, which costs the guest an exit
     * and us a wake-up; 0 for never. Where it is of no use, it is done less and less. */
    uint32_t max_poll;
    /* Where to wait for more, without a return to Python, for as long as nobody else on the loop has work: an epoll
     * descriptor that waits for `kick`, for the engine's, and for others'; or -1. */
    int loop;
    int kick;            /* an eventfd */
    int call;            /* one to interrupt the driver by, or -1 where nobody waits for that */
    uint64_t idle_until; /* by CLOCK_MONOTONIC, in nanoseconds: a timer of the loop is due then */
    uint32_t max_buffers; /* elements of `iov` and `addresses`: one longest chain */
    struct iovec *iov;
    uint64_t *addresses; /* the guest's, for `chain` */

    /* What a call says. */
    uint8_t interrupt;        /* the driver wants one */
    uint32_t calls;           /* interrupts that were signalled at `call`, with `loop` */
    struct pyvmm_chain chain; /* with PYVMM_FILE_REQUESTS_OTHER; its buffers are in `iov` */

    /* Since the start. */
    uint64_t finished;     /* transfers */
    uint64_t failed;       /* of them */
    uint64_t told;         /* of these, what the caller has noticed and says here: there is no waiting before */
    int error;             /* of the last that failed: an errno, ENODATA for the end of the file */
    uint8_t error_write;   /* whether it was a write */
    uint64_t error_offset; /* in bytes */

    struct pyvmm_queue *queue;
    uint32_t poll;     /* nanoseconds, for this time */
    uint32_t unpolled; /* how often in a row there was none */
};

/* Completes the transfers that are finished, takes chains and starts them: enum pyvmm_file_requests_stop, or a rule
 * negated. What is complete by then is published. The queue must not change while any is under way. */
int pyvmm_file_requests_move(struct pyvmm_queue *q, struct pyvmm_file_requests *r);

#endif
