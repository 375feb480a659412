#include "messages.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Used entries are published after so many messages or bytes. So the driver can go on while the rest is moved, and the
 * ring does not run empty, which would cost a kick. The interrupt is left to the end of the call. */
#define PUBLISH_MESSAGES 4
#define PUBLISH_BYTES 16384

static void publish_some(struct pyvmm_queue *q, struct pyvmm_messages *m, uint64_t size)
{
    if (size >= PUBLISH_BYTES || (uint16_t)(q->next_used - q->published) >= PUBLISH_MESSAGES)
        m->interrupt |= (uint8_t)pyvmm_queue_publish(q);
}

/* Takes one chain. 1; or 0 when there is none, after asking the driver for a kick unless `quiet`; or a negated rule. */
static int take(struct pyvmm_queue *q, int quiet, struct pyvmm_chain *chain, struct iovec *iov, int max_buffers)
{
    int taken = pyvmm_queue_take(q, chain, 1, iov, NULL, max_buffers);
    if (taken == 0 && !quiet && pyvmm_queue_enable_kick(q)) {
        pyvmm_queue_disable_kick(q);
        taken = pyvmm_queue_take(q, chain, 1, iov, NULL, max_buffers);
    }
    return taken;
}

/* Writes one message: its size, or -1 with errno. EAGAIN means that nothing of it was written. */
static ssize_t send_message(struct pyvmm_messages *m, const struct pyvmm_chain *chain)
{
    ssize_t written;
    if (m->stream)
        return pyvmm_message_stream_send(m->stream, m->iov, chain->readable, chain->readable_length);
    do {
        written = writev(m->fd, m->iov, chain->readable);
    } while (written < 0 && errno == EINTR);
    return written;
}

int pyvmm_messages_to_fd(struct pyvmm_queue *q, struct pyvmm_messages *m)
{
    struct pyvmm_chain *chain = m->chains;
    uint64_t bytes = 0;
    int stop = PYVMM_MESSAGES_BUDGET;

    m->interrupt = 0;
    pyvmm_queue_disable_kick(q);
    for (uint32_t i = 0; i < m->max_messages && bytes < m->max_bytes; i++) {
        int taken = take(q, m->quiet, chain, m->iov, (int)m->max_buffers);
        if (taken <= 0) {
            stop = taken < 0 ? taken : PYVMM_MESSAGES_EMPTY;
            break;
        }
        ssize_t written = -1;
        if (chain->readable_length >= m->min_size && chain->readable_length <= m->max_size) {
            written = send_message(m, chain);
            if (written < 0 && errno == EAGAIN) {
                pyvmm_queue_untake(q, chain->head);
                stop = PYVMM_MESSAGES_WAIT;
                break;
            }
            if (written < 0)
                m->error = errno;
        }
        if (written < 0)
            m->dropped++;
        else
            m->messages++;
        bytes += chain->readable_length;
        pyvmm_queue_complete(q, chain->head, 0);
        publish_some(q, m, chain->readable_length);
    }
    if (m->stream && stop >= 0 && pyvmm_message_stream_flush(m->stream) && errno == EAGAIN)
        stop = PYVMM_MESSAGES_WAIT;
    m->interrupt |= (uint8_t)pyvmm_queue_publish(q);
    return stop;
}

/* The chains that were taken and not yet used: chains[first..first + count). Their buffers follow each other from
 * iov[buffer] on. */
struct window {
    uint32_t first, count;
    uint32_t buffer, buffers;
    uint64_t room; /* bytes */
};

/* Moves the window to the start of the arrays when there is no space for one more chain behind it. */
static void make_space(struct pyvmm_messages *m, struct window *w)
{
    if (w->first + w->count < PYVMM_MESSAGES_CHAINS && w->buffer + w->buffers <= m->max_buffers / 2)
        return;
    memmove(m->chains, m->chains + w->first, w->count * sizeof *m->chains);
    memmove(m->iov, m->iov + w->buffer, w->buffers * sizeof *m->iov);
    w->first = w->buffer = 0;
}

enum { GATHER_MORE, GATHER_READY, GATHER_AGAIN };

/* Takes chains until the largest message has room. GATHER_READY when a message may be read, GATHER_MORE when the driver
 * must make more chains available first, GATHER_AGAIN after a chain that cannot be used, or a negated rule. */
static int gather(struct pyvmm_queue *q, struct pyvmm_messages *m, struct window *w)
{
    while (w->count == 0 || (m->merge && w->room < m->max_size)) {
        make_space(m, w);
        uint32_t end = w->buffer + w->buffers;
        if (w->first + w->count >= PYVMM_MESSAGES_CHAINS || end > m->max_buffers / 2)
            return GATHER_READY; /* the arrays are full: read with the room there is */
        struct pyvmm_chain *chain = &m->chains[w->first + w->count];
        int taken = take(q, m->quiet, chain, m->iov + end, (int)(m->max_buffers - end));
        if (taken < 0)
            return taken;
        if (taken == 0)
            /* While the driver holds most of its buffers, it will make some available soon. Otherwise a message must
             * not wait for buffers that may never come. */
            return w->count && 2 * w->count >= m->most ? GATHER_READY : GATHER_MORE;
        if (chain->readable || chain->writable_length < m->min_size) {
            if (w->count) {
                pyvmm_queue_untake(q, chain->head); /* complete it later: only the chain taken last can be given back */
                return GATHER_READY;
            }
            pyvmm_queue_complete(q, chain->head, 0);
            return GATHER_AGAIN; /* the caller counts it, since a driver can offer such chains without end */
        }
        w->count++;
        w->buffers += chain->writable;
        w->room += chain->writable_length;
    }
    return GATHER_READY;
}

/* Stores `length` bytes, zeros if `data` is NULL, at `offset` of the message in `iov`. */
static void store(const struct iovec *iov, size_t offset, const uint8_t *data, size_t length)
{
    for (; length; iov++) {
        for (; offset < iov->iov_len && length; offset++, length--)
            ((uint8_t *)iov->iov_base)[offset] = data ? *data++ : 0;
        offset = offset < iov->iov_len ? 0 : offset - iov->iov_len;
    }
}

/* Completes the chains that hold the message of `size` bytes. */
static void give(struct pyvmm_queue *q, struct pyvmm_messages *m, struct window *w, uint64_t size)
{
    const struct iovec *message = m->iov + w->buffer;
    uint16_t used = 0;

    if (m->clear)
        store(message, 0, NULL, m->clear);
    do {
        const struct pyvmm_chain *chain = &m->chains[w->first];
        uint32_t part = size < chain->writable_length ? (uint32_t)size : chain->writable_length;
        pyvmm_queue_complete(q, chain->head, part);
        size -= part;
        used++;
        w->first++;
        w->count--;
        w->buffer += chain->writable;
        w->buffers -= chain->writable;
        w->room -= chain->writable_length;
    } while (size);
    if (m->count_offset >= 0) {
        uint8_t count[2] = {(uint8_t)used, (uint8_t)(used >> 8)};
        store(message, (size_t)m->count_offset, count, sizeof count);
    }
}

/* Reads one message: its size, 0 when it does not fit, or a negated errno. */
static ssize_t receive(struct pyvmm_messages *m, const struct window *w)
{
    struct iovec *iov = m->iov + w->buffer;
    uint32_t buffers = w->buffers < UIO_MAXIOV ? w->buffers : UIO_MAXIOV - 1;
    uint64_t room = w->room;
    uint8_t more;

    if (m->stream)
        return pyvmm_message_stream_receive(m->stream, iov, room);
    for (uint32_t i = buffers; i < w->buffers; i++)
        room -= iov[i].iov_len;
    /* The kernel truncates a message silently: one byte more than the buffers hold reveals it. */
    struct iovec saved = iov[buffers];
    iov[buffers] = (struct iovec){&more, 1};
    ssize_t size;
    do {
        size = readv(m->fd, iov, (int)buffers + 1);
    } while (size < 0 && errno == EINTR);
    int error = errno;
    iov[buffers] = saved;
    if (size < 0)
        return -error;
    return (uint64_t)size > room || size < m->min_size ? 0 : size;
}

int pyvmm_messages_from_fd(struct pyvmm_queue *q, struct pyvmm_messages *m)
{
    struct window w = {0};
    uint64_t bytes = 0;
    int stop = PYVMM_MESSAGES_BUDGET;

    m->interrupt = 0;
    uint16_t available = pyvmm_queue_available(q);
    if (available > m->most)
        m->most = available;
    pyvmm_queue_disable_kick(q);
    for (uint32_t i = 0; i < m->max_messages && bytes < m->max_bytes; i++) {
        int ready = gather(q, m, &w);
        if (ready == GATHER_AGAIN)
            continue;
        if (ready != GATHER_READY) {
            stop = ready < 0 ? ready : PYVMM_MESSAGES_EMPTY;
            break;
        }
        ssize_t size = receive(m, &w);
        if (size < 0) {
            stop = size == -EAGAIN ? PYVMM_MESSAGES_WAIT : PYVMM_MESSAGES_ERROR;
            m->error = (int)-size;
            break;
        }
        if (size == 0) {
            m->dropped++;
            continue;
        }
        bytes += (uint64_t)size;
        m->messages++;
        give(q, m, &w, (uint64_t)size);
        publish_some(q, m, (uint64_t)size);
    }
    while (w.count)
        pyvmm_queue_untake(q, m->chains[w.first + --w.count].head);
    m->interrupt |= (uint8_t)pyvmm_queue_publish(q);
    return stop;
}
