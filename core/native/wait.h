/* Waiting in place of Python's event loop, as long as no other descriptor of the loop is ready. */
#ifndef PYVMM_WAIT_H
#define PYVMM_WAIT_H

#include <stdint.h>

#define PYVMM_WAIT_MAX 3

/* Waits until at least one of `ours`, up to PYVMM_WAIT_MAX descriptors, is readable. Returns a bit for each of them
 * that is. `loop` is an epoll descriptor that waits for `ours` and others.
 *
 * * Returns 0 when another descriptor is ready, at an error or a hang-up, at a signal when none of `ours` is readable,
 * and at time `until` (nanoseconds of CLOCK_MONOTONIC). Does not wait if that time is past, or `loop` is -1. */
uint32_t pyvmm_wait_readable(int loop, uint64_t until, const int *ours, int count);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t pyvmm_monotonic_ns(void);

/* Resets the count of an eventfd. */
void pyvmm_eventfd_drain(int event);

/* Signals an eventfd; does nothing if it is -1. */
void pyvmm_eventfd_signal(int event);

#endif
