/* Accesses to ports: what DO says, on every CPU; the last one that is done powers off.
 *
 * Words from the host: how many, the port, the number of CPUs.
 */
#include "guest.h"

#define OUT 1     /* bytes, one by one: the number of each, the CPU's in the high half */
#define REP_OUT 2 /* the same, by one instruction */
#define REP_IN 3  /* bytes by one instruction, into FREE_MEMORY */
#define IN 4      /* bytes, one by one, into FREE_MEMORY */

static uint8_t byte(uint64_t cpu, uint64_t number) { return (uint8_t)(cpu << 4 | (number & 15)); }

void program(uint64_t cpu)
{
    uint64_t count = PARAMETERS[0];
    uint16_t port = (uint16_t)PARAMETERS[1];
    uint8_t *data = (uint8_t *)(FREE_MEMORY + 0x100000 * cpu);

    for (uint64_t i = 0; i < count; i++) {
        if (DO == OUT)
            outb(port, byte(cpu, i));
        else if (DO == IN)
            data[i] = inb(port);
        else
            data[i] = byte(cpu, i);
    }
    if (DO == REP_OUT)
        rep_outsb(port, data, count);
    if (DO == REP_IN)
        rep_insb(port, data, count);
    static uint64_t done;
    if (__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST) == PARAMETERS[2])
        poweroff();
    for (;;)
        pause();
}
