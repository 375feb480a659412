#include "message_stream.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LENGTH_SIZE 4

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void put32(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 24);
    at[1] = (uint8_t)(value >> 16);
    at[2] = (uint8_t)(value >> 8);
    at[3] = (uint8_t)value;
}

/* Stores `header` zeros and then `size` bytes in the buffers, which must have room for both. */
static void scatter(const struct iovec *iov, uint32_t header, const uint8_t *data, uint32_t size)
{
    for (; header || size; iov++) {
        uint8_t *to = iov->iov_base;
        size_t room = iov->iov_len, zeros = header < room ? header : room;
        memset(to, 0, zeros);
        header -= (uint32_t)zeros;
        room -= zeros;
        size_t part = size < room ? size : room;
        memcpy(to + zeros, data, part);
        data += part;
        size -= (uint32_t)part;
    }
}

ssize_t pyvmm_message_stream_receive(struct pyvmm_message_stream *s, const struct iovec *iov, uint64_t room)
{
    for (;;) {
        uint32_t have = s->input_end - s->input_start;
        if (have >= LENGTH_SIZE) {
            uint32_t size = get32(s->input + s->input_start);
            if (size > s->max_size)
                return -EPROTO;
            if (have - LENGTH_SIZE >= size) {
                const uint8_t *data = s->input + s->input_start + LENGTH_SIZE;
                s->input_start += LENGTH_SIZE + size;
                if ((uint64_t)s->header + size > room)
                    return 0;
                scatter(iov, s->header, data, size);
                return (ssize_t)(s->header + size);
            }
        }
        if (s->input_start) {
            memmove(s->input, s->input + s->input_start, have);
            s->input_start = 0;
            s->input_end = have;
        }
        ssize_t got;
        do {
            got = recv(s->fd, s->input + s->input_end, s->input_size - s->input_end, MSG_DONTWAIT);
        } while (got < 0 && errno == EINTR);
        if (got < 0)
            return -errno;
        if (got == 0)
            return -ECONNRESET;
        s->input_end += (uint32_t)got;
    }
}

int pyvmm_message_stream_has_more(const struct pyvmm_message_stream *s)
{
    return s->input_end - s->input_start >= LENGTH_SIZE;
}

int pyvmm_message_stream_flush(struct pyvmm_message_stream *s)
{
    while (s->rest_start < s->rest_end) {
        ssize_t sent = send(s->fd, s->rest + s->rest_start, s->rest_end - s->rest_start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -1;
        s->rest_start += (uint32_t)sent;
    }
    s->rest_start = s->rest_end = 0;
    return 0;
}

ssize_t pyvmm_message_stream_send(struct pyvmm_message_stream *s, const struct iovec *iov, uint32_t count,
                                  uint32_t size)
{
    struct iovec message[UIO_MAXIOV];
    uint8_t length[LENGTH_SIZE];
    uint32_t skip = s->header, buffers = 1;

    if (pyvmm_message_stream_flush(s))
        return -1;
    put32(length, size - s->header);
    message[0] = (struct iovec){length, LENGTH_SIZE};
    for (uint32_t i = 0; i < count; i++) {
        if (skip >= iov[i].iov_len) {
            skip -= (uint32_t)iov[i].iov_len;
            continue;
        }
        if (buffers == UIO_MAXIOV) {
            errno = EMSGSIZE;
            return -1;
        }
        message[buffers++] = (struct iovec){(uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip};
        skip = 0;
    }
    struct msghdr header = {.msg_iov = message, .msg_iovlen = buffers};
    ssize_t sent;
    do {
        sent = sendmsg(s->fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -1;
    /* Part of the message was sent, so the rest must follow: keep it. */
    size_t done = (size_t)sent;
    for (uint32_t i = 0; i < buffers; i++) {
        size_t part = message[i].iov_len;
        if (done >= part) {
            done -= part;
            continue;
        }
        memcpy(s->rest + s->rest_end, (uint8_t *)message[i].iov_base + done, part - done);
        s->rest_end += (uint32_t)(part - done);
        done = 0;
    }
    return (ssize_t)size;
}
