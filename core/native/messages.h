/* Whole messages between a ring and a file descriptor, many in one call.
 *
 * A message is what one readv(2) or writev(2) moves, such as a frame of a tap or a datagram. It is copied between the
 * descriptor and guest memory directly.
 */
#ifndef PYVMM_MESSAGES_H
#define PYVMM_MESSAGES_H

#include "ring.h"
#include "message_stream.h"

/* The most chains that one message may be spread over. */
#define PYVMM_MESSAGES_CHAINS 1024

enum pyvmm_messages_stop {
    PYVMM_MESSAGES_EMPTY = 0,  /* the ring has no more chains; the driver was asked to kick */
    PYVMM_MESSAGES_WAIT = 1,   /* the descriptor would block */
    PYVMM_MESSAGES_BUDGET = 2, /* `max_messages` or `max_bytes` is reached; there may be more */
    PYVMM_MESSAGES_ERROR = 3,  /* the descriptor cannot be read; `error` says why */
};

struct pyvmm_messages {
    /* Set by the caller. */
    int fd;
    struct pyvmm_message_stream *stream; /* in place of `fd`: each message has its length before it; or NULL */
    uint32_t min_size; /* bytes of a message; shorter ones are dropped */
    uint32_t max_size; /* from the ring: longer messages are dropped; to the ring: the room to wait for */
    uint32_t clear;    /* leading bytes of each message to the ring that are set to 0 */
    int32_t count_offset; /* offset, in a message to the ring, of its number of chains (16 bits); -1 for none */
    uint8_t merge;     /* a message to the ring may be spread over several chains */
    uint8_t quiet;     /* ask for no kick when the ring is empty: the caller polls */
    uint32_t max_messages; /* that one call moves */
    uint64_t max_bytes;
    uint32_t max_buffers; /* elements of `iov`: enough for two of the longest chains */
    struct iovec *iov;

    /* Set by each call. */
    uint8_t interrupt; /* the driver wants an interrupt */
    int error;         /* the last errno of the descriptor */
    uint64_t messages; /* moved since the start */
    uint64_t dropped;  /* since the start */

    uint16_t most; /* the most chains that the driver ever had available */
    struct pyvmm_chain chains[PYVMM_MESSAGES_CHAINS];
};

/* Writes each chain to the descriptor as one message. Drops messages that the descriptor refuses. Publishes what is
 * complete before it returns: enum pyvmm_messages_stop, or a negated enum pyvmm_rule. */
int pyvmm_messages_to_fd(struct pyvmm_queue *q, struct pyvmm_messages *m);

/* Reads messages into chains, each from the start of a chain. Drops messages that do not fit into the available chains.
 * Publishes and returns as above. */
int pyvmm_messages_from_fd(struct pyvmm_queue *q, struct pyvmm_messages *m);

#endif
