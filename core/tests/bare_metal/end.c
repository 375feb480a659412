/* Ways in which a run ends: END is one of them. */
#include "guest.h"

struct table {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

void program(uint64_t cpu)
{
    report((uint32_t)cpu);
#if defined(END_POWEROFF)
    poweroff();
#elif defined(END_RESET_REGISTER)
    outb(0x602, 1);
#elif defined(END_KEYBOARD)
    outb(0x64, 0xfe);
#elif defined(END_TRIPLE_FAULT)
    static const struct table none = {0, 0};
    __asm__ volatile("mov $0x1234567890abcdef, %%rbx; lidt %0; ud2" : : "m"(none) : "rbx");
#elif defined(END_NOWHERE)
    ((void (*)(void))0xd0000000)(); /* nothing can be fetched from there, nor emulated */
#elif defined(END_HLT)
    for (;;)
        hlt();
#elif defined(END_SPIN)
    for (;;)
        pause();
#elif defined(END_EXITS)
    for (;;)
        inb(0x80);
#endif
    for (;;)
        pause();
}
