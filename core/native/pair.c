#include "pair.h"

#include <poll.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static uint64_t moved(const struct pyvmm_pair *p)
{
    return p->to->messages + p->to->dropped + p->back->messages + p->back->dropped;
}

static void call(int fd, uint32_t *count)
{
    uint64_t one = 1;
    ++*count;
    if (fd >= 0 && write(fd, &one, sizeof one) < 0)
        return; /* it is signalled as often as can be */
}

static void drain(int fd)
{
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0)
        return; /* somebody was faster */
}

/* One turn; whether there may be another. */
static int turn(struct pyvmm_pair *p)
{
    p->to_stop = pyvmm_bulk_to_fd(p->to_queue, p->to);
    if (p->to->interrupt)
        call(p->to_call, &p->to_calls);
    p->back_stop = pyvmm_bulk_from_fd(p->back_queue, p->back);
    if (p->back->interrupt)
        call(p->back_call, &p->back_calls);
    return (p->to_stop == PYVMM_BULK_EMPTY || p->to_stop == PYVMM_BULK_BUDGET) &&
           (p->back_stop == PYVMM_BULK_WAIT || p->back_stop == PYVMM_BULK_BUDGET);
}

/* Waits for a kick or a message; whether one came. */
static int wait_for_more(struct pyvmm_pair *p)
{
    struct pollfd loop = {.fd = p->loop, .events = POLLIN};
    struct pollfd ours[] = {
        {.fd = p->to_kick, .events = POLLIN},
        {.fd = p->back_kick, .events = POLLIN},
        {.fd = p->to->fd, .events = POLLIN},
    };

    if (poll(&loop, 1, (int)p->idle_ms) <= 0)
        return 0;
    if (poll(ours, 3, 0) <= 0 || ((ours[0].revents | ours[1].revents | ours[2].revents) & ~POLLIN))
        return 0; /* others', or an end */
    for (int i = 0; i < 2; i++)
        if (ours[i].revents)
            drain(ours[i].fd);
    return 1;
}

void pyvmm_pair_move(struct pyvmm_pair *p)
{
    uint64_t now = now_ns(), end = now + (uint64_t)p->max_ms * 1000000, spin_end = now;

    p->to_calls = p->back_calls = 0;
    p->to->quiet = 1;
    for (;;) {
        uint64_t before = moved(p);
        if (!turn(p))
            break;
        now = now_ns();
        if (now >= end)
            break;
        if (moved(p) != before) {
            spin_end = now + p->spin_ns;
            p->to->quiet = 1;
        } else if (now >= spin_end) {
            /* Once more with a wish for a kick, and then it is time to sleep. */
            if (!p->to->quiet && !wait_for_more(p))
                break;
            p->to->quiet = !p->to->quiet;
        }
    }
    if (p->to->quiet && p->to_stop == PYVMM_BULK_EMPTY)
        p->to_stop = PYVMM_BULK_BUDGET; /* the driver was not asked for a kick */
    p->to->quiet = 0;
}
