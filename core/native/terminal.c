#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <termios.h>

static const int signals[] = {SIGQUIT, SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE};
#define COUNT (sizeof(signals) / sizeof(signals[0]))

static struct sigaction former[COUNT];
static int installed[COUNT];
static struct termios saved;
static volatile sig_atomic_t guarded = -1; /* the terminal's descriptor */

/* Only calls that signal-safety(7) lists. */
static void on_signal(int number)
{
    int error = errno, fd = guarded;
    sigset_t ttou, before;

    if (fd >= 0) {
        /* A process in the background would be stopped for it. */
        sigemptyset(&ttou);
        sigaddset(&ttou, SIGTTOU);
        pthread_sigmask(SIG_BLOCK, &ttou, &before);
        tcsetattr(fd, TCSANOW, &saved);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    for (size_t i = 0; i < COUNT; i++)
        if (signals[i] == number)
            sigaction(number, &former[i], NULL);
    raise(number); /* it is blocked until this returns */
    errno = error;
}

int pyvmm_terminal_guard(int fd)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK}, now;

    pyvmm_terminal_unguard();
    if (tcgetattr(fd, &saved) < 0)
        return errno;
    sigemptyset(&action.sa_mask);
    guarded = fd;
    for (size_t i = 0; i < COUNT; i++) {
        if (sigaction(signals[i], NULL, &now) < 0 || now.sa_handler == SIG_IGN)
            continue;
        former[i] = now;
        installed[i] = sigaction(signals[i], &action, NULL) == 0;
    }
    return 0;
}

void pyvmm_terminal_unguard(void)
{
    struct sigaction now;

    guarded = -1;
    for (size_t i = 0; i < COUNT; i++) {
        if (installed[i] && sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == on_signal)
            sigaction(signals[i], &former[i], NULL);
        installed[i] = 0;
    }
}
