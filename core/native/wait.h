/* To wait in the place of Python's event loop, for as long as nobody else on it has work. */
#ifndef PYVMM_WAIT_H
#define PYVMM_WAIT_H

#include <stdint.h>

#define PYVMM_WAIT_MAX 3

/* Waits until one of `ours`, up to PYVMM_WAIT_MAX descriptors, is readable: a bit for each that is. 0 when another one
 * that epoll descriptor `loop` waits for is ready, at an error or an end, at a signal without anything of ours, and when
 * time `until` has come (nanoseconds of CLOCK_MONOTONIC). Does not wait where that is over, or `loop` is -1. */
uint32_t pyvmm_wait_readable(int loop, uint64_t until, const int *ours, int count);

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t pyvmm_monotonic_ns(void);

/* Takes what an eventfd has counted. */
void pyvmm_eventfd_drain(int event);

/* Signals an eventfd; none where it is -1. */
void pyvmm_eventfd_signal(int event);

#endif
