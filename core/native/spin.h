/* A spin lock: for threads that must not block each other, around a few instructions. */
#ifndef PYVMM_SPIN_H
#define PYVMM_SPIN_H

#include <sched.h>
#include <stdatomic.h>

static inline void pyvmm_lock(atomic_flag *lock)
{
    /* The kernel may have preempted the thread that holds it. */
    while (atomic_flag_test_and_set_explicit(lock, memory_order_acquire))
        sched_yield();
}

static inline void pyvmm_unlock(atomic_flag *lock) { atomic_flag_clear_explicit(lock, memory_order_release); }

#endif
