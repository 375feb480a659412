/* The way back from a terminal's raw mode for a process that ends in a signal which Python code does not see: because
 * the fault is in C, or because the main thread hangs there. */
#ifndef PYVMM_TERMINAL_H
#define PYVMM_TERMINAL_H

/* Keeps how the terminal `fd` is set now, and restores that at SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGILL and SIGFPE,
 * before the signal's former action is taken. A signal that is ignored stays ignored. One terminal at a time; 0, or an
 * errno. */
int pyvmm_terminal_guard(int fd);

/* Ends that: the signals have their former actions, where nobody has set others meanwhile. */
void pyvmm_terminal_unguard(void);

#endif
