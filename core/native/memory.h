/* What Python's os and mmap modules cannot ask of the kernel for guest memory. */
#ifndef PYVMM_MEMORY_H
#define PYVMM_MEMORY_H

#include <stdint.h>

#include "ring.h"

/* Maps `length` bytes of `fd` from `offset` on, shared, for reading and writing, at an address that is as far from a
 * multiple of 2 MiB, or of `page` if that is more, as `offset` is: so huge pages of the file can be mapped as such.
 * `fd` -1 for memory of this process alone, which its forks do not get. `reserved`: of memory that the host has
 * already. The mapping's address; or NULL, with errno, which is EINVAL where the file ends before that. */
void *pyvmm_memory_map(int fd, uint64_t offset, uint64_t length, uint64_t page, int reserved);

void pyvmm_memory_unmap(void *host, uint64_t length);

/* Gives `length` bytes of `fd` from `offset` on back to the host: a hole, which reads as zeros (fallocate(2)). 0, or an
 * errno negated. */
int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length);

/* The same for whole pages of memory that is this process's alone (MADV_DONTNEED). */
int pyvmm_memory_discard_own(void *host, uint64_t length);

/* Makes huge pages of the ranges of 2 MiB that `length` bytes at `host` lie in, each tried once: a disk is then given
 * a few large pieces in place of hundreds of pages. MADV_COLLAPSE does so for a memfd too where the host's settings
 * have none for shared memory (Linux 6.1); where the kernel cannot, memory stays as it is. What is not inside one of
 * `memory`'s regions is left alone. Takes a millisecond or more a range. */
void pyvmm_memory_join(struct pyvmm_memory *memory, const void *host, uint64_t length);

/* Does the same for whatever of `memory` comes to be used, until eventfd `stop` is signalled: the guest then has one
 * fault in place of 512. Looks every millisecond while there is something new, and ever more rarely, to once a second,
 * while there is not. A range that was given back whole counts as new. */
void pyvmm_memory_keep_joined(struct pyvmm_memory *memory, int stop);

#endif
