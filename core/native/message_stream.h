/* Messages on a stream socket, each behind its length in four bytes, the highest first: as QEMU's "stream" and
 * "socket" networks have them, and passt.
 */
#ifndef PYVMM_MESSAGE_STREAM_H
#define PYVMM_MESSAGE_STREAM_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct pyvmm_message_stream {
    /* What the caller sets. */
    int fd;            /* a socket that does not block */
    uint32_t header;   /* bytes before a message in a ring that the stream does not have: zeros when it comes */
    uint32_t max_size; /* bytes of a message in the stream; a longer one breaks it */
    uint8_t *input;       /* for what has come, more than 4 + max_size bytes */
    uint32_t input_size;
    uint8_t *rest;      /* for the part of a message that the socket had no room for, 4 + max_size bytes */

    uint32_t input_start, input_end;
    uint32_t rest_start, rest_end;
};

/* Puts the next message, its header included, into buffers of `room` bytes: its size, 0 where it does not fit and is
 * dropped, or an errno negated: EAGAIN where no whole one has come, ECONNRESET at the end of the stream, EPROTO for
 * a message that is too long. */
ssize_t pyvmm_message_stream_receive(struct pyvmm_message_stream *stream, const struct iovec *iov, uint64_t room);

/* Sends the message in `count` buffers without its header: `size`, or -1 with errno. EAGAIN: nothing of it. */
ssize_t pyvmm_message_stream_send(struct pyvmm_message_stream *stream, const struct iovec *iov, uint32_t count,
                                  uint32_t size);

/* Sends what is left of the last message: 0, or -1 with errno. */
int pyvmm_message_stream_flush(struct pyvmm_message_stream *stream);

/* Whether something has come that was read and not yet received. */
int pyvmm_message_stream_has_more(const struct pyvmm_message_stream *stream);

#endif
