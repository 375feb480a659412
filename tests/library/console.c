/* A guest that answers at its first serial port: it says "ready", and then does what each line says. */
#include "guest.h"

#define COM1 0x3f8
#define FLOOD (96 << 10)
#define FIFO 16

static void put(char byte)
{
    while (!(inb(COM1 + 5) & 0x20))
        pause();
    outb(COM1, (uint8_t)byte);
}

static void say(const char *text)
{
    while (*text)
        put(*text++);
}

static int is(const char *line, const char *word)
{
    while (*word && *line == *word)
        line++, word++;
    return !*word && !*line;
}

void program(uint64_t cpu)
{
    static char line[64];
    uint32_t length = 0;

    (void)cpu;
    outb(COM1 + 4, 0x0b); /* DTR and RTS, for input, and OUT2 */
    say("ready\n");
    for (;;) {
        if (!(inb(COM1 + 5) & 1)) {
            pause();
            continue;
        }
        char byte = (char)inb(COM1);
        if (byte != '\n') {
            if (length + 1 < sizeof(line))
                line[length++] = byte;
            continue;
        }
        line[length] = 0;
        length = 0;
        if (is(line, "poweroff")) {
            say("bye\n");
            poweroff();
        }
        if (is(line, "flood"))
            for (uint32_t i = 0; i < FLOOD; i += FIFO) {
                while (!(inb(COM1 + 5) & 0x20))
                    pause();
                rep_outsb(COM1, "0123456789abcdef", FIFO);
            }
        else {
            say("you said ");
            say(line);
            say("\n");
        }
    }
}
