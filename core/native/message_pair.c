#include "message_pair.h"

#include "wait.h"

static uint64_t moved(const struct pyvmm_message_pair *p)
{
    return p->to->messages + p->to->dropped + p->back->messages + p->back->dropped;
}

static void call(int fd, uint32_t *count)
{
    ++*count;
    pyvmm_eventfd_signal(fd);
}

/* Moves messages both ways once; whether to go on. */
static int turn(struct pyvmm_message_pair *p)
{
    p->to_stop = pyvmm_messages_to_fd(p->to_queue, p->to);
    p->back_stop = pyvmm_messages_from_fd(p->back_queue, p->back);
    if (p->back->interrupt)
        call(p->back_call, &p->back_calls);
    /* Both queues may share one eventfd, which needs one signal only. */
    if (p->to->interrupt && !(p->back->interrupt && p->to_call == p->back_call))
        call(p->to_call, &p->to_calls);
    return (p->to_stop == PYVMM_MESSAGES_EMPTY || p->to_stop == PYVMM_MESSAGES_BUDGET) &&
           (p->back_stop == PYVMM_MESSAGES_WAIT || p->back_stop == PYVMM_MESSAGES_BUDGET);
}

/* Sleeps until a kick or a message comes. 0 when anything else of the loop is ready, too. */
static int wait_for_more(struct pyvmm_message_pair *p)
{
    const int ours[] = {p->to_kick, p->back_kick, p->to->fd};
    uint32_t ready = pyvmm_wait_readable(p->loop, p->idle_until, ours, 3);

    for (int i = 0; i < 2; i++)
        if (ready & 1u << i)
            pyvmm_eventfd_drain(ours[i]);
    return ready != 0;
}

/* Even while nothing else on the loop is ready, the call returns after so many turns, so that Python handles signals.
 */
#define TURNS 20

void pyvmm_message_pair_move(struct pyvmm_message_pair *p)
{
    uint64_t now = pyvmm_monotonic_ns(), turn_ns = (uint64_t)p->max_ms * 1000000, spin_end = now;
    uint64_t end = now + turn_ns, last = now + TURNS * turn_ns;
    const uint8_t quiet = p->spin_ns != 0; /* without polling, kicks are needed */

    p->to_calls = p->back_calls = 0;
    p->to->quiet = quiet;
    for (;;) {
        uint64_t before = moved(p);
        if (!turn(p))
            break;
        now = pyvmm_monotonic_ns();
        if (now >= end)
            break;
        if (moved(p) != before) {
            spin_end = now + p->spin_ns;
            p->to->quiet = quiet;
        } else if (now >= spin_end) {
            /* Ask for a kick, look once more, and then sleep. */
            if (!p->to->quiet) {
                if (!wait_for_more(p))
                    break;
                p->to->quiet = quiet;
                uint64_t woken = pyvmm_monotonic_ns();
                last += woken - now; /* sleep does not count */
                end = woken + turn_ns < last ? woken + turn_ns : last; /* nothing else was ready: a new turn */
            } else {
                p->to->quiet = 0;
            }
        }
    }
    if (p->to->quiet && p->to_stop == PYVMM_MESSAGES_EMPTY)
        p->to_stop = PYVMM_MESSAGES_BUDGET; /* the driver was not asked for a kick */
    p->to->quiet = 0;
}
