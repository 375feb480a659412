/* Messages from one ring to a descriptor and from the descriptor to another ring, by turns, in one call. */
#ifndef PYVMM_MESSAGE_PAIR_H
#define PYVMM_MESSAGE_PAIR_H

#include "messages.h"

struct pyvmm_message_pair {
    struct pyvmm_queue *to_queue, *back_queue;
    struct pyvmm_messages *to, *back; /* both of the same descriptor, without a stream */
    int to_kick, back_kick; /* eventfds */
    int to_call, back_call; /* eventfds, or -1 */
    int loop;               /* the event loop's epoll descriptor: it waits for the descriptor, the kicks, and others */
    uint32_t spin_ns;       /* how long to poll before the driver is asked for a kick, which costs it more; 0: not */
    uint64_t idle_until;    /* until when to sleep after that: see pyvmm_wait_readable() */
    uint32_t max_ms;        /* how long to go on before the rest of the loop gets its turn */

    int to_stop, back_stop; /* results of the last calls: enum pyvmm_messages_stop or a negated rule */
    uint32_t to_calls, back_calls; /* interrupts signalled */
};

/* Moves all messages both ways, then waits for more. Returns when a direction waits for something other than a kick or
 * a message, when another descriptor of the loop is ready, and when the time is over. */
void pyvmm_message_pair_move(struct pyvmm_message_pair *pair);

#endif
