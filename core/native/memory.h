/* What Python's os module cannot ask of the kernel for guest memory. */
#ifndef PYVMM_MEMORY_H
#define PYVMM_MEMORY_H

#include <stdint.h>

/* Gives `length` bytes of `fd` from `offset` on back to the host: a hole, which reads as zeros (fallocate(2)). 0, or an
 * errno negated. */
int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length);

#endif
