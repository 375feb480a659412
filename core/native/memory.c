#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wait.h"

#define PAGE ((uint64_t)4096)
#define HUGE_PAGE ((uint64_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void *pyvmm_memory_map(int fd, uint64_t offset, uint64_t length, uint64_t page, int reserved)
{
    uint64_t unit = page > HUGE_PAGE ? page : HUGE_PAGE, whole = (length + page - 1) & ~(page - 1);
    struct stat file;

    if (fd >= 0 && fstat(fd, &file) < 0)
        return NULL;
    if (whole < length || offset + whole < whole ||
        (fd >= 0 && S_ISREG(file.st_mode) && (uint64_t)file.st_size < offset + whole)) {
        errno = EINVAL; /* an access past the end of the file would end the process (SIGBUS) */
        return NULL;
    }
    /* Reserve enough address space for any alignment, and unmap both ends below. */
    uint8_t *room = mmap(NULL, whole + unit, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return NULL;
    uint64_t before = (offset - (uint64_t)(uintptr_t)room) & (unit - 1);
    int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_FIXED | (reserved ? 0 : MAP_NORESERVE);
    if (mmap(room + before, whole, PROT_READ | PROT_WRITE, flags, fd, fd < 0 ? 0 : (off_t)offset) == MAP_FAILED) {
        int error = errno;
        munmap(room, whole + unit);
        errno = error;
        return NULL;
    }
    if (before)
        munmap(room, before);
    munmap(room + before + whole, unit - before);
    /* For hosts that give huge pages on request only: "madvise" in enabled, "advise" in shmem_enabled. */
    madvise(room + before, whole, MADV_HUGEPAGE);
    if (fd < 0) /* otherwise a fork would make it copy-on-write, while KVM and the engines of disks use it */
        madvise(room + before, whole, MADV_DONTFORK);
    return room + before;
}

void pyvmm_memory_unmap(void *host, uint64_t length)
{
    munmap(host, length);
}

int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length)
{
    int result;

    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}

int pyvmm_memory_discard_own(void *host, uint64_t length)
{
    return madvise(host, length, MADV_DONTNEED) < 0 ? -errno : 0;
}

static struct pyvmm_range *range_at(const struct pyvmm_region *region, uint64_t at)
{
    return region->ranges + (at - (region->offset & ~(HUGE_PAGE - 1))) / HUGE_PAGE;
}

/* Whether the region holds the whole range of the file at `at`, mapped so that it can be one huge page. */
static int can_join(const struct pyvmm_region *region, uint64_t at)
{
    uint64_t end = region->offset + region->size;

    return region->ranges && at >= region->offset && at < end && end - at >= HUGE_PAGE &&
           ((uint64_t)(uintptr_t)region->host - region->offset) % HUGE_PAGE == 0;
}

/* Makes each of `count` ranges from `at` on a huge page; whether the kernel did so. */
static int join_ranges(const struct pyvmm_region *region, uint64_t at, uint32_t count)
{
    uint8_t *host = region->host + (at - region->offset);
    struct pyvmm_range *range = range_at(region, at);

    for (uint32_t i = 0; i < count; i++) {
        *(volatile uint8_t *)(host + i * HUGE_PAGE); /* use a page of it: the kernel refuses a range that is one hole */
        range[i].tries++;
    }
    if (madvise(host, count * HUGE_PAGE, MADV_COLLAPSE) < 0)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        range[i].joined = 1;
    return 1;
}

void pyvmm_memory_join(struct pyvmm_memory *memory, const void *host, uint64_t length)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const struct pyvmm_region *region = &memory->regions[i];
        uint64_t start = (uint64_t)((const uint8_t *)host - region->host);
        if ((const uint8_t *)host < region->host || start >= region->size || length > region->size - start)
            continue;
        uint64_t at = (region->offset + start) & ~(HUGE_PAGE - 1), end = region->offset + start + length;
        while (at < end) {
            uint32_t count = 0;
            for (uint64_t next = at; next < end && can_join(region, next) && !range_at(region, next)->tries;
                 next += HUGE_PAGE)
                count++;
            if (count)
                join_ranges(region, at, count);
            at += (count ? count : 1) * HUGE_PAGE;
        }
    }
}

/* The number of pages of a range that are used. */
static uint16_t used_pages(int fd, uint64_t at)
{
    uint64_t used = 0, end = at + HUGE_PAGE;

    while (at < end) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
        if (data < 0 || (uint64_t)data >= end || (hole = lseek(fd, data, SEEK_HOLE)) < 0)
            break;
        at = (uint64_t)hole < end ? (uint64_t)hole : end;
        used += at - (uint64_t)data;
    }
    return (uint16_t)(used / PAGE);
}

/* A range is joined once so many of its pages are used. So a guest that touches single pages here and there does not
 * cost the host 2 MiB for each. */
#define USED 16
/* The kernel cannot join pages that are in use at that moment, for example by a vCPU that faults in others of the
 * range. So it is tried more than once. */
#define TRIES 4
/* While the guest uses ranges one after the other, up to so many of the next ones are joined ahead. */
#define AHEAD 8
/* To join a range in use copies it. That is done once nothing has changed for about twice CALM milliseconds, up to
 * COPIES ranges at each look. */
#define CALM 128
#define COPIES 16

/* How many ranges in a row from `at` on, in direction `step`, are used, or with `used` 0 never were; up to `most`. */
static uint32_t run_of(const struct pyvmm_region *region, uint64_t at, int64_t step, int used, uint32_t most)
{
    uint32_t count = 0;

    for (; count < most && can_join(region, at); at += (uint64_t)step, count++) {
        const struct pyvmm_range *range = range_at(region, at);
        if ((range->pages || range->joined) != used || (!used && range->returned))
            break;
    }
    return count;
}

/* The range at `at` has come into use: joins the next ones in the direction in which the guest goes on. */
static void join_ahead(const struct pyvmm_region *region, uint64_t at)
{
    int64_t step = HUGE_PAGE;
    uint32_t up = run_of(region, at - HUGE_PAGE, -step, 1, AHEAD);
    uint32_t down = run_of(region, at + HUGE_PAGE, step, 1, AHEAD);

    if (up > down) {
        up = run_of(region, at + HUGE_PAGE, step, 0, up);
        if (up)
            join_ranges(region, at + HUGE_PAGE, up);
    } else if (down > up) {
        down = run_of(region, at - HUGE_PAGE, -step, 0, down);
        if (down)
            join_ranges(region, at - down * HUGE_PAGE, down);
    }
}

/* Looks at all ranges of a region, and joins up to `copies` used ones. Returns how many ranges have changed since the
 * last look. */
static uint32_t look(const struct pyvmm_region *region, uint32_t *copies)
{
    uint64_t at = (region->offset + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), end = region->offset + region->size;
    uint32_t changed = 0;

    for (; can_join(region, at); at += HUGE_PAGE) {
        off_t data = lseek(region->fd, (off_t)at, SEEK_DATA);
        uint64_t next = data < 0 ? end : (uint64_t)data & ~(HUGE_PAGE - 1);
        for (; at < next && can_join(region, at); at += HUGE_PAGE) {
            struct pyvmm_range *hole = range_at(region, at);
            *hole = (struct pyvmm_range){.returned = hole->returned || hole->pages || hole->joined};
        }
        if (!can_join(region, at))
            break;
        struct pyvmm_range *range = range_at(region, at);
        if (range->joined || range->tries >= TRIES)
            continue;
        uint16_t before = range->pages, pages = range->pages = used_pages(region->fd, at);
        if (pages != before)
            changed++;
        if (pages < before)
            range->tries = TRIES; /* the guest gave pages back: do not take them again */
        else if (pages >= USED && before < USED)
            join_ahead(region, at);
        else if (pages >= USED && *copies) {
            --*copies;
            join_ranges(region, at, 1);
        }
    }
    return changed;
}

void pyvmm_memory_keep_joined(struct pyvmm_memory *memory, int stop)
{
    struct pollfd ready = {.fd = stop, .events = POLLIN};
    int pause = 1; /* milliseconds */

    while (poll(&ready, 1, pause) <= 0) {
        uint32_t changed = 0, copies = pause >= CALM ? COPIES : 0;
        uint64_t began = pyvmm_monotonic_ns();
        for (uint32_t i = 0; i < memory->count; i++)
            changed += look(&memory->regions[i], &copies);
        if (changed)
            pause = 1;
        else if (pause < CALM || copies) /* while there are more to copy, look again soon */
            pause = pause < 500 ? 2 * pause : 1000;
        /* Looking takes at most a tenth of the time. */
        int64_t least = (int64_t)(pyvmm_monotonic_ns() - began) / 100000;
        if (pause < least)
            pause = least < 1000 ? (int)least : 1000;
    }
}
