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

/* One turn; whether there may be another. */
static int turn(struct pyvmm_message_pair *p)
{
    p->to_stop = pyvmm_messages_to_fd(p->to_queue, p->to);
    p->back_stop = pyvmm_messages_from_fd(p->back_queue, p->back);
    if (p->back->interrupt)
        call(p->back_call, &p->back_calls);
    if (p->to->interrupt && !(p->back->interrupt && p->to_call == p->back_call)) /* one line is for both */
        call(p->to_call, &p->to_calls);
    return (p->to_stop == PYVMM_MESSAGES_EMPTY || p->to_stop == PYVMM_MESSAGES_BUDGET) &&
           (p->back_stop == PYVMM_MESSAGES_WAIT || p->back_stop == PYVMM_MESSAGES_BUDGET);
}

/* Waits for a kick or a message; whether one came, and nothing else. */
static int wait_for_more(struct pyvmm_message_pair *p)
{
    const int ours[] = {p->to_kick, p->back_kick, p->to->fd};
    uint32_t ready = pyvmm_wait_readable(p->loop, p->idle_until, ours, 3);

    for (int i = 0; i < 2; i++)
        if (ready & 1u << i)
            pyvmm_eventfd_drain(ours[i]);
    return ready != 0;
}

/* Where nobody else has work, it still returns now and then: Python looks for signals. */
#define TURNS 20

void pyvmm_message_pair_move(struct pyvmm_message_pair *p)
{
    uint64_t now = pyvmm_monotonic_ns(), turn_ns = (uint64_t)p->max_ms * 1000000, spin_end = now;
    uint64_t end = now + turn_ns, last = now + TURNS * turn_ns;
    const uint8_t quiet = p->spin_ns != 0; /* who does not look again has to be kicked */

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
            /* Once more with a wish for a kick, and then it is time to sleep. */
            if (!p->to->quiet) {
                if (!wait_for_more(p))
                    break;
                p->to->quiet = quiet;
                uint64_t woken = pyvmm_monotonic_ns();
                last += woken - now; /* to sleep takes nobody's time */
                end = woken + turn_ns < last ? woken + turn_ns : last; /* nobody else had anything to do */
            } else {
                p->to->quiet = 0;
            }
        }
    }
    if (p->to->quiet && p->to_stop == PYVMM_MESSAGES_EMPTY)
        p->to_stop = PYVMM_MESSAGES_BUDGET; /* the driver was not asked for a kick */
    p->to->quiet = 0;
}
