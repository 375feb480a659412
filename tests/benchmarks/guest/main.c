/*
 * A guest that measures. Its command line says what, a word a test, done in order:
 *
 *   bench=tsc,TICKS_PER_MS     first: how fast the time-stamp counter runs
 *   bench=exits,…  bench=block,…  bench=net,…    see exits.c, block.c, net.c
 *   bench=idle                 says READY and halts for good (at privilege level 0)
 *
 * It says BEGIN and END around what is timed, and then RESULT with the word and name=value pairs, times in ticks.
 * After the last test it ends.
 */
#include "guest.h"

#define NOTE_MS 50

uint64_t ticks_per_ms = 1000000;

static char word[128];

void begin_timing(void) { put("BEGIN\n"); }

void end_timing(uint64_t count, uint64_t ticks)
{
    put("END\n");
    /* Time for the host to take note. */
    for (uint64_t end = rdtsc() + NOTE_MS * ticks_per_ms; rdtsc() < end;)
        relax();
    put("RESULT ");
    put(word);
    put_number(" count=", count);
    put_number(" ticks=", ticks);
    latency_report();
    latency_reset();
}

static void idle(void)
{
    put("READY\n");
    for (;;) {
#if LEVEL == 0
        __asm__ volatile("hlt");
#else
        relax();
#endif
    }
}

void guest_main(const void *boot_data)
{
    char kind[16];
    const char *text;

    parameters_init(boot_data);
    while ((text = parameters_next(word, sizeof word))) {
        next_field(&text, kind, sizeof kind);
        if (same(kind, "tsc")) {
            ticks_per_ms = to_number(text);
            continue;
        }
        if (same(kind, "idle"))
            idle();
        if (same(kind, "exits"))
            test_exits(text);
        else if (same(kind, "block"))
            test_block(text);
        else if (same(kind, "net"))
            test_net(text);
        else
            fail(word);
        put("\n");
        free_all();
    }
    end();
}
