/* Each CPU says which one it is: by CPUID, by its local APIC. The last one powers off.
 *
 * Words from the host: the number of CPUs. Words to the host, from ANSWERS on, WORDS for each CPU: 1, leaf 1's initial
 * APIC id and count of ids, the local APIC's id, leaf 0xB's x2APIC id and count of CPUs, both 0 without that leaf.
 */
#include "guest.h"

#define ANSWERS 8
#define WORDS 8

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

static struct cpuid cpuid(uint32_t leaf, uint32_t index)
{
    struct cpuid r = {leaf, 0, index, 0};
    __asm__ volatile("cpuid" : "+a"(r.eax), "=b"(r.ebx), "+c"(r.ecx), "=d"(r.edx));
    return r;
}

void program(uint64_t cpu)
{
    static uint64_t done;
    volatile uint64_t *answers = PARAMETERS + ANSWERS + WORDS * cpu;
    uint32_t features = cpuid(1, 0).ebx;

    answers[0] += 1;
    answers[1] = features >> 24;
    answers[2] = features >> 16 & 0xff;
    answers[3] = read32(0xfee00020) >> 24;
    if (cpuid(0, 0).eax >= 0xb) {
        struct cpuid cores = cpuid(0xb, 1);
        answers[4] = cores.edx;
        answers[5] = cores.ebx;
    }
    report((uint32_t)cpu);
    if (__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST) == PARAMETERS[0])
        poweroff();
    for (;;)
        hlt();
}
