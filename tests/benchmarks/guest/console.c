/* The serial port, and the ways to end: what the host reads is lines. */
#include "guest.h"

#define COM1 0x3f8
#define LSR 5
#define LSR_THRE 0x20

static void put_char(char c)
{
    while (!(inb(COM1 + LSR) & LSR_THRE))
        relax();
    outb(COM1, (uint8_t)c);
}

void put(const char *text)
{
    while (*text)
        put_char(*text++);
}

void put_number(const char *name, uint64_t value)
{
    char digits[24], *p = digits + sizeof digits;

    *--p = 0;
    do
        *--p = (char)('0' + value % 10);
    while (value /= 10);
    put(name);
    put(p);
}

void end(void)
{
    outb(0x602, 1); /* pyvmm's reset register */
    outb(0xf4, 1);  /* isa-debug-exit of QEMU and kvm_loop */
    for (;;)
        relax();
}

void fail(const char *why)
{
    put("FAILED ");
    put(why);
    put("\n");
    end();
}
