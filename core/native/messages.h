/* Whole messages between a ring and a file descriptor, many to a call.
 *
 * A message is what one readv or writev moves: a frame of a tap, a datagram. It goes between the descriptor and
 * guest memory directly.
 */
#ifndef PYVMM_MESSAGES_H
#define PYVMM_MESSAGES_H

#include "ring.h"
#include "message_stream.h"

/* Chains that one message may be spread over. */
#define PYVMM_MESSAGES_CHAINS 1024

enum pyvmm_messages_stop {
    PYVMM_MESSAGES_EMPTY = 0,  /* the ring has no (more) chains; the driver was asked to kick */
    PYVMM_MESSAGES_WAIT = 1,   /* the descriptor would block */
    PYVMM_MESSAGES_BUDGET = 2, /* enough for this time; there may be more */
    PYVMM_MESSAGES_ERROR = 3,  /* the descriptor cannot be read: `error` says why */
};

struct pyvmm_messages {
    /* What the caller sets. */
    int fd;
    struct pyvmm_message_stream *stream; /* where messages have their length before them in place of `fd`, or NULL */
    uint32_t min_size; /* bytes of a message; others are dropped */
    uint32_t max_size; /* of a message from the ring; to the ring, the room that is waited for */
    uint32_t clear;    /* leading bytes of a message to the ring that are set to 0 */
    int32_t count_offset; /* where a message to the ring says, in 16 bits, over how many chains it goes, or -1 */
    uint8_t merge;     /* a message to the ring may go over several chains */
    uint8_t quiet;     /* a ring that is empty is left without a wish for a kick: it will be looked at again */
    uint32_t max_messages; /* of one call */
    uint64_t max_bytes;
    uint32_t max_buffers; /* elements of `iov`: two of the longest chains */
    struct iovec *iov;

    /* What a call says. */
    uint8_t interrupt; /* the driver wants one */
    int error;         /* the last errno of readv or writev */
    uint64_t messages; /* moved since the start */
    uint64_t dropped;  /* since the start */

    uint16_t most; /* the most chains that the driver ever had available */
    struct pyvmm_chain chains[PYVMM_MESSAGES_CHAINS];
};

/* Writes each chain to the descriptor as one message. A message that it refuses is dropped. Returns enum
 * pyvmm_messages_stop, or a rule negated; what was done by then is published. */
int pyvmm_messages_to_fd(struct pyvmm_queue *q, struct pyvmm_messages *m);

/* Reads messages into chains, each from the start of a chain. A message that does not fit into the chains that
 * are there is dropped. Returns as above. */
int pyvmm_messages_from_fd(struct pyvmm_queue *q, struct pyvmm_messages *m);

#endif
