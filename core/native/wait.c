#include "wait.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

uint64_t pyvmm_monotonic_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

uint32_t pyvmm_wait_readable(int loop, uint64_t until, const int *ours, int count)
{
    struct epoll_event ready[PYVMM_WAIT_MAX + 1]; /* one more, to see another descriptor */
    uint64_t now = pyvmm_monotonic_ns();
    uint32_t found = 0;

    if (loop < 0 || now >= until)
        return 0;
    int number = epoll_wait(loop, ready, PYVMM_WAIT_MAX + 1, (int)((until - now) / 1000000));
    if (number < 0 && errno == EINTR) /* a signal, or io_uring posted a result (IORING_SETUP_COOP_TASKRUN) */
        number = epoll_wait(loop, ready, PYVMM_WAIT_MAX + 1, 0);
    for (int i = 0; i < number; i++) {
        int at = 0;
        /* Python's epoll objects register each descriptor with its number as the data. */
        while (at < count && ready[i].data.fd != ours[at])
            at++;
        if (at == count || ready[i].events != EPOLLIN)
            return 0;
        found |= 1u << at;
    }
    return found;
}

void pyvmm_eventfd_drain(int event)
{
    uint64_t count;
    if (read(event, &count, sizeof count) < 0)
        return; /* another reader was faster */
}

void pyvmm_eventfd_signal(int event)
{
    uint64_t one = 1;
    if (event >= 0 && write(event, &one, sizeof one) < 0)
        return; /* the count is at its maximum, so the eventfd is readable already */
}
