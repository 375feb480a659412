/* Prints how many ticks the time-stamp counter makes in a millisecond. */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

int main(void)
{
    int64_t begin = now(), end;
    uint64_t ticks = __rdtsc();
    do
        end = now();
    while (end - begin < 50000000);
    ticks = __rdtsc() - ticks;
    printf("%.0f\n", (double)ticks * 1e6 / (double)(end - begin));
    return 0;
}
