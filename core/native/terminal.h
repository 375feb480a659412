/* The raw mode of a terminal and its restoration, also when a signal ends the process that Python code does not see:
 * the fault is in C, or the main thread hangs there. */
#ifndef PYVMM_TERMINAL_H
#define PYVMM_TERMINAL_H

/* Makes the terminal `fd` raw, as cfmakeraw(3) does. Returns 0 or an errno. */
int pyvmm_terminal_make_raw(int fd);

/* Saves the settings of the terminal `fd` and makes it raw. A signal that ends the process then restores the settings
 * before the signal's former action is taken: SIGQUIT and the signals of a crash, unless they are ignored, and others
 * that have their default action. One terminal at a time. Called again, it makes the terminal raw again and keeps the
 * saved settings. Returns 0 or an errno. */
int pyvmm_terminal_enter(int fd);

/* Restores the settings and the actions of the signals. Called twice, it does nothing. The settings stay as they are if
 * this process is in the background and another process has changed them: they belong to the foreground. An action
 * stays if it was changed meanwhile. */
void pyvmm_terminal_leave(void);

#endif
