#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>

#define HUGE_PAGE ((uint64_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length)
{
    int result;

    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

/* Through a mapping of its own, since the region's need not begin where a huge page may. */
static void join_range(int fd, uint64_t offset)
{
    uint8_t *room = mmap(NULL, 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return;
    uint8_t *at = (uint8_t *)(((uintptr_t)room + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
    if (mmap(at, HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) != MAP_FAILED) {
        *(volatile uint8_t *)at; /* the kernel makes nothing of a range that is all holes */
        madvise(at, HUGE_PAGE, MADV_COLLAPSE);
    }
    munmap(room, 2 * HUGE_PAGE);
}

void pyvmm_memory_join(struct pyvmm_memory *memory, const void *host, uint64_t length)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct pyvmm_region *region = &memory->regions[i];
        uint64_t start = (uint64_t)((const uint8_t *)host - region->host);
        if ((const uint8_t *)host < region->host || start >= region->size || length > region->size - start ||
            !region->joined)
            continue;
        /* Whole ranges of the file that are all the region's. */
        uint64_t first = (region->offset + start) & ~(HUGE_PAGE - 1), end = region->offset + region->size;
        for (uint64_t at = first; at < region->offset + start + length && at + HUGE_PAGE <= end; at += HUGE_PAGE) {
            uint8_t *tried = region->joined + (at - (region->offset & ~(HUGE_PAGE - 1))) / HUGE_PAGE;
            if (at < region->offset || *tried)
                continue;
            *tried = 1;
            join_range(region->fd, at);
        }
    }
}
