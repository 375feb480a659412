/* The command line, from wherever the boot protocol has it. */
#include "guest.h"

#define PVH_MAGIC 0x336ec578
#define PVH_CMDLINE 24
#define ZERO_PAGE_CMDLINE 0x228

static const char *rest;

void parameters_init(const void *boot_data)
{
    const char *base = boot_data;

    if (*(const uint32_t *)base == PVH_MAGIC)
        rest = *(const char *const *)(base + PVH_CMDLINE);
    else
        rest = (const char *)(uintptr_t) * (const uint32_t *)(base + ZERO_PAGE_CMDLINE);
    if (!rest)
        rest = "";
}

const char *parameters_next(char *word, size_t size)
{
    static const char prefix[] = "bench=";

    for (;;) {
        size_t length = 0, matched = 0;
        while (*rest == ' ')
            rest++;
        if (!*rest)
            return NULL;
        while (*rest && *rest != ' ') {
            if (matched < sizeof prefix - 1) {
                matched = *rest == prefix[matched] ? matched + 1 : sizeof prefix;
            } else if (matched == sizeof prefix - 1 && length < size - 1) {
                word[length++] = *rest;
            }
            rest++;
        }
        if (length) {
            word[length] = 0;
            return word;
        }
    }
}

/* Fields are parted by commas. */
bool next_field(const char **text, char *field, size_t size)
{
    size_t length = 0;

    if (!**text)
        return false;
    while (**text && **text != ',') {
        if (length < size - 1)
            field[length++] = **text;
        ++*text;
    }
    if (**text)
        ++*text;
    field[length] = 0;
    return true;
}

uint64_t to_number(const char *text)
{
    uint64_t value = 0, base = 10;

    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    for (; *text; text++)
        value = value * base + (uint64_t)(*text <= '9' ? *text - '0' : (*text | 0x20) - 'a' + 10);
    return value;
}

bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}
