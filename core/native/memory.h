/* Guest memory: its regions, and the system calls for it that Python's os and mmap modules lack. */
#ifndef PYVMM_MEMORY_H
#define PYVMM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define PYVMM_MAX_REGIONS 8

/* 2 MiB of a memfd, which may be made one huge page (pyvmm_memory_join, pyvmm_memory_keep_joined). */
struct pyvmm_range {
    uint16_t pages; /* used pages at the last look, up to 512 */
    uint8_t tries;  /* how often it was tried to join them */
    uint8_t joined; /* they are one huge page */
    uint8_t returned; /* they were used once, and then given back to the host */
};

struct pyvmm_region {
    uint64_t base; /* guest-physical */
    uint64_t size;
    uint8_t *host;
    uint64_t offset; /* in the file `fd`, which backs the region */
    struct pyvmm_range *ranges; /* the ranges of the file that the region overlaps; NULL to join none */
    int fd;
};

struct pyvmm_memory {
    uint32_t count;
    struct pyvmm_region regions[PYVMM_MAX_REGIONS];
};

/* The host address of `length` bytes at a guest-physical address; NULL unless one region holds all of them. Inline,
 * since the ring translates the address of each buffer. */
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

/* Maps `length` bytes of `fd` from `offset` on, shared, for reading and writing. The address and `offset` are equal
 * modulo 2 MiB, or modulo `page` if that is more, so that huge pages of the file can be mapped as such. With `fd` -1
 * the memory is private to this process, and forks do not inherit it. `reserved`: `fd` has huge pages reserved for
 * it (hugetlbfs). Returns the address; or NULL with errno, EINVAL where the file is too short. */
void *pyvmm_memory_map(int fd, uint64_t offset, uint64_t length, uint64_t page, int reserved);

/* Unmaps `length` bytes that pyvmm_memory_map() mapped. */
void pyvmm_memory_unmap(void *host, uint64_t length);

/* Gives `length` bytes of `fd` from `offset` on back to the host. They become a hole, which reads as zeros
 * (FALLOC_FL_PUNCH_HOLE, fallocate(2)). 0, or a negated errno. */
int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length);

/* The same for whole pages of private memory (MADV_DONTNEED). */
int pyvmm_memory_discard_own(void *host, uint64_t length);

/* Makes huge pages of the ranges of 2 MiB that contain the `length` bytes at `host`. A disk then gets a few large
 * pieces instead of hundreds of pages. Uses MADV_COLLAPSE (Linux 6.1), which works for a memfd even where the host's
 * settings give no huge pages to shared memory. Where the kernel cannot do it, memory stays as it is; each range is
 * tried once. Bytes outside of `memory`'s regions are ignored. Takes a millisecond or more for each range. */
void pyvmm_memory_join(struct pyvmm_memory *memory, const void *host, uint64_t length);

/* Does the same for each range of `memory` that the guest begins to use, until eventfd `stop` is signalled. The guest
 * then has one page fault instead of 512. Looks every millisecond while ranges change, and less often, down to once a
 * second, while they do not. A range that was given back as a whole counts as new. */
void pyvmm_memory_keep_joined(struct pyvmm_memory *memory, int stop);

#endif
