/* A ring to a descriptor and one from it, moved by turns for as long as nothing but they has work. */
#ifndef PYVMM_MESSAGE_PAIR_H
#define PYVMM_MESSAGE_PAIR_H

#include "messages.h"

struct pyvmm_message_pair {
    struct pyvmm_queue *to_queue, *back_queue;
    struct pyvmm_messages *to, *back; /* of one descriptor that keeps messages apart */
    int to_kick, back_kick; /* eventfds */
    int to_call, back_call; /* eventfds, or -1 */
    int loop;               /* an epoll descriptor that waits for the descriptor, the kicks, and others' work */
    uint32_t spin_ns;       /* how long to look for more without asking for a kick, which costs the driver more; or 0 */
    uint64_t idle_until;    /* until when to wait for more then: see pyvmm_wait_readable() */
    uint32_t max_ms;        /* how long to go on without a look at what others have to do */

    int to_stop, back_stop; /* what the last calls said: enum pyvmm_messages_stop or a rule negated */
    uint32_t to_calls, back_calls; /* interrupts signalled */
};

/* Moves what there is both ways, then waits for more. Returns when a direction has to wait for something else than a
 * kick or a message, when others on the loop have work, and when time is over. */
void pyvmm_message_pair_move(struct pyvmm_message_pair *pair);

#endif
