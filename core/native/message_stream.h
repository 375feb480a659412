/* Messages on a stream socket: each follows its length in four bytes, big-endian. QEMU's "stream" and "socket" networks
 * and passt use this format.
 */
#ifndef PYVMM_MESSAGE_STREAM_H
#define PYVMM_MESSAGE_STREAM_H

#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct pyvmm_message_stream {
    /* Set by the caller. */
    int fd;            /* a non-blocking socket */
    uint32_t header;   /* bytes at the start of a message in a ring that are not sent, and are zeros on receipt */
    uint32_t max_size; /* bytes of the longest message in the stream; a longer one is an error */
    uint8_t *input;       /* receive buffer, more than 4 + max_size bytes */
    uint32_t input_size;
    uint8_t *rest;      /* for the rest of a message that the socket had no room for, 4 + max_size bytes */

    uint32_t input_start, input_end;
    uint32_t rest_start, rest_end;
};

/* Receives the next message, with its header, into buffers of `room` bytes. Its size; 0 if it does not fit and was
 * dropped; or a negated errno: EAGAIN while no whole message has arrived, ECONNRESET at the end of the stream, EPROTO
 * for a message longer than `max_size`. */
ssize_t pyvmm_message_stream_receive(struct pyvmm_message_stream *stream, const struct iovec *iov, uint64_t room);

/* Sends the message in `count` buffers, without its header. `size`, or -1 with errno; EAGAIN if nothing was sent. */
ssize_t pyvmm_message_stream_send(struct pyvmm_message_stream *stream, const struct iovec *iov, uint32_t count,
                                  uint32_t size);

/* Sends the rest of the last message. 0, or -1 with errno. */
int pyvmm_message_stream_flush(struct pyvmm_message_stream *stream);

/* Whether `input` may hold a message that was not received yet. */
int pyvmm_message_stream_has_more(const struct pyvmm_message_stream *stream);

#endif
