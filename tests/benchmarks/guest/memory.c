/* Memory above the program, given out and never taken back but all at once. */
#include "guest.h"

#define HEAP_START 0x1000000u /* 16 MiB */
#define HEAP_END 0xf000000u   /* 240 MiB: the machine has 256 */

static uintptr_t next = HEAP_START;

void *allocate(size_t size, size_t alignment)
{
    uintptr_t start = (next + alignment - 1) & ~(uintptr_t)(alignment - 1);

    if (start + size > HEAP_END)
        fail("out of memory");
    next = start + size;
    return (void *)start;
}

void free_all(void) { next = HEAP_START; }

void *memcpy(void *to, const void *from, size_t size)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
    return result;
}

void *memset(void *to, int value, size_t size)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return result;
}
