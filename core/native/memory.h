/* Guest memory: the regions that it consists of, and what Python's os and mmap modules cannot ask of the kernel for it.
 */
#ifndef PYVMM_MEMORY_H
#define PYVMM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define PYVMM_MAX_REGIONS 8

/* 2 MiB of a memfd's pages, which may become one huge page (memory.c). */
struct pyvmm_range {
    uint16_t pages; /* used when it was looked at last, up to 512 */
    uint8_t tries;  /* how often they were to become one */
    uint8_t joined;
    uint8_t returned; /* they were used, and then given back */
};

struct pyvmm_region {
    uint64_t base; /* guest-physical */
    uint64_t size;
    uint8_t *host;
    uint64_t offset; /* in the file `fd`, whose pages it is */
    struct pyvmm_range *ranges; /* those of the file that it touches; NULL where none is to become one page */
    int fd;
};

struct pyvmm_memory {
    uint32_t count;
    struct pyvmm_region regions[PYVMM_MAX_REGIONS];
};

/* The host's address of `length` bytes at a guest-physical address; NULL where they do not lie in one region. Inline, for
 * the ring translates each buffer's address. */
static inline uint8_t *pyvmm_memory_translate(const struct pyvmm_memory *memory, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct pyvmm_region *region = &memory->regions[i];
        uint64_t offset = address - region->base;
        if (address >= region->base && offset < region->size && length <= region->size - offset)
            return region->host + offset;
    }
    return NULL;
}

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
