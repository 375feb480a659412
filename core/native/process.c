#include "process.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

int pyvmm_process_die_with(int parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        return errno;
    return getppid() == parent ? 0 : -1;
}

void pyvmm_process_set_name(const char *name) { prctl(PR_SET_NAME, name); }

void pyvmm_process_set_title(uint64_t start, uint64_t end, const char *title)
{
    char *area = (char *)(uintptr_t)start;
    size_t size = end - start;

    /* The kernel shows the area up to the first NUL where the last byte is not NUL, and all of it otherwise. */
    memset(area, 0, size);
    strncpy(area, title, size - 1);
}
