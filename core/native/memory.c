#define _GNU_SOURCE
#include "memory.h"

#include <errno.h>
#include <fcntl.h>

int pyvmm_memory_discard(int fd, uint64_t offset, uint64_t length)
{
    int result;

    do
        result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (result < 0 && errno == EINTR);
    return result < 0 ? -errno : 0;
}
