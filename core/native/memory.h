/* What Python's os module cannot ask of the kernel for guest memory. */
#ifndef PYVMM_MEMORY_H
#define PYVMM_MEMORY_H

#include <stdint.h>

#include "ring.h"

/* Gives `length` bytes of `fd` from `offset` on back to the host: a hole, which reads as zeros (fallocate(2)). 0, or an
 * errno negated. */
int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length);

/* Makes huge pages of the ranges of 2 MiB that `length` bytes at `host` lie in, each tried once: a disk is then given
 * a few large pieces in place of hundreds of pages. MADV_COLLAPSE does so for a memfd too where the host's settings
 * have none for shared memory (Linux 6.1); where the kernel cannot, memory stays as it is. What is not inside one of
 * `memory`'s regions is left alone. Takes a millisecond or more a range. */
void pyvmm_memory_join(struct pyvmm_memory *memory, const void *host, uint64_t length);

#endif
