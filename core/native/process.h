/* What Python cannot ask of the kernel for the process that it is in. */
#ifndef PYVMM_PROCESS_H
#define PYVMM_PROCESS_H

#include <stdint.h>

/* Has the kernel kill this process when the thread that made it ends; -1 where its process, `parent`, has ended
 * already, or an errno. */
int pyvmm_process_die_with(int parent);

/* Names this thread, in 15 bytes: comm in ps(1), `Name` in /proc/PID/status. */
void pyvmm_process_set_name(const char *name);

/* Writes `title` over the process's arguments, which the kernel says are from `start` up to `end`. */
void pyvmm_process_set_title(uint64_t start, uint64_t end, const char *title);

#endif
