/* System calls on the calling process that Python has no function for. */
#ifndef PYVMM_PROCESS_H
#define PYVMM_PROCESS_H

#include <stdint.h>

/* Makes the kernel kill this process when the thread that started it ends (PR_SET_PDEATHSIG). 0; -1 if that thread's
 * process, `parent`, has ended already; or an errno. */
int pyvmm_process_die_with(int parent);

/* Names this thread, in up to 15 bytes: comm in ps(1), `Name` in /proc/PID/status. */
void pyvmm_process_set_name(const char *name);

/* Writes `title` over the process's arguments, which lie from `start` up to `end` (/proc/PID/stat, proc(5)). */
void pyvmm_process_set_title(uint64_t start, uint64_t end, const char *title);

#endif
