/* A histogram with 64 buckets to each power of two. */
#include "guest.h"

#define SUB_BITS 6
#define SUB (1u << SUB_BITS)

static uint32_t buckets[64 * SUB];
static uint64_t total, largest;

void latency_reset(void)
{
    if (total) /* at privilege level 0 it may be slow, and there is nothing */
        memset(buckets, 0, sizeof buckets);
    total = largest = 0;
}

static unsigned bucket_of(uint64_t ticks)
{
    if (ticks < SUB)
        return (unsigned)ticks;
    unsigned shift = 63u - (unsigned)__builtin_clzll(ticks) - SUB_BITS;
    return (shift + 1) * SUB + (unsigned)((ticks >> shift) - SUB);
}

static uint64_t bucket_end(unsigned bucket)
{
    if (bucket < SUB)
        return bucket;
    unsigned shift = bucket / SUB - 1;
    return ((uint64_t)(bucket % SUB + SUB + 1) << shift) - 1;
}

void latency_add(uint64_t ticks)
{
    buckets[bucket_of(ticks)]++;
    total++;
    if (ticks > largest)
        largest = ticks;
}

static uint64_t percentile(uint64_t per_mille)
{
    uint64_t wanted = total * per_mille / 1000, seen = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(buckets); i++) {
        seen += buckets[i];
        if (seen > wanted)
            return bucket_end(i);
    }
    return largest;
}

void latency_report(void)
{
    if (!total)
        return;
    put_number(" p50=", percentile(500));
    put_number(" p99=", percentile(990));
    put_number(" max=", largest);
}
