#include "terminal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Signals whose default action ends the process. The first CRASHES of them are handled even if other code, such as
 * faulthandler, handles them. */
static const int signals[] = {SIGQUIT, SIGABRT, SIGSEGV, SIGBUS,  SIGILL,    SIGFPE,  SIGSYS, SIGTRAP, SIGTERM,  SIGHUP,
                              SIGUSR1, SIGUSR2, SIGALRM, SIGXCPU, SIGVTALRM, SIGPROF, SIGIO,  SIGPWR,  SIGSTKFLT};
#define COUNT (int)(sizeof(signals) / sizeof(signals[0]))
#define CRASHES 8

static struct sigaction former[COUNT];
static int installed[COUNT];
static volatile sig_atomic_t handling[COUNT];

static volatile sig_atomic_t terminal = -1; /* the descriptor */
static struct termios saved, raw;
static pid_t owner;

/* A process in the background would be stopped by SIGTTOU. */
static int set(int fd, const struct termios *settings)
{
    sigset_t ttou, before;
    int error;

    sigemptyset(&ttou);
    sigaddset(&ttou, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &ttou, &before);
    /* Not TCSAFLUSH, which drops keys typed ahead, nor TCSADRAIN, which waits for ever after Ctrl-s. */
    error = tcsetattr(fd, TCSANOW, settings) < 0 ? errno : 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static int is_raw(int fd)
{
    struct termios now;

    return tcgetattr(fd, &now) == 0 && now.c_iflag == raw.c_iflag && now.c_oflag == raw.c_oflag &&
           now.c_cflag == raw.c_cflag && now.c_lflag == raw.c_lflag;
}

static int in_background(int fd)
{
    pid_t group = tcgetpgrp(fd);

    return group >= 0 && group != getpgrp();
}

static void restore(int fd)
{
    if (!in_background(fd) || is_raw(fd))
        set(fd, &saved);
}

/* It makes only calls that signal-safety(7) lists. */
static void on_signal(int number)
{
    struct sigaction ours;
    int error = errno, fd = terminal, at = 0;

    while (at < COUNT - 1 && signals[at] != number)
        at++;
    if (handling[at]) { /* faulthandler was enabled later, and its former action is this function */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    handling[at] = 1;
    if (fd >= 0 && getpid() == owner) /* not in a fork */
        restore(fd);
    sigaction(number, &former[at], &ours);
    raise(number);
    /* The former action has returned. If the process goes on, as with faulthandler.register, so does the raw mode. */
    if (number == SIGQUIT) {
        sigaction(number, &ours, NULL);
        if (terminal >= 0 && getpid() == owner && !in_background(fd))
            set(fd, &raw);
    }
    handling[at] = 0;
    errno = error;
}

static void install(void)
{
    /* With SA_NODEFER, raise() takes the former action at once. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_NODEFER}, now;

    sigemptyset(&action.sa_mask);
    for (int i = 0; i < COUNT; i++) {
        if (sigaction(signals[i], NULL, &now) < 0 || now.sa_handler == SIG_IGN || now.sa_handler == on_signal ||
            (i >= CRASHES && now.sa_handler != SIG_DFL))
            continue;
        former[i] = now;
        installed[i] = sigaction(signals[i], &action, NULL) == 0;
    }
}

static void uninstall(void)
{
    struct sigaction now;

    for (int i = 0; i < COUNT; i++) {
        if (installed[i] && sigaction(signals[i], NULL, &now) == 0 && now.sa_handler == on_signal)
            sigaction(signals[i], &former[i], NULL);
        installed[i] = 0;
    }
}

int pyvmm_terminal_make_raw(int fd)
{
    struct termios settings;

    if (tcgetattr(fd, &settings) < 0)
        return errno;
    cfmakeraw(&settings);
    settings.c_cc[VMIN] = 1;
    settings.c_cc[VTIME] = 0;
    return set(fd, &settings);
}

int pyvmm_terminal_enter(int fd)
{
    int error;

    if (terminal != fd) {
        pyvmm_terminal_leave();
        if (tcgetattr(fd, &saved) < 0)
            return errno;
        raw = saved;
        cfmakeraw(&raw);
        owner = getpid();
        terminal = fd;
        install();
    }
    error = pyvmm_terminal_make_raw(fd);
    if (error) /* the terminal was closed (hang-up) */
        pyvmm_terminal_leave();
    return error;
}

void pyvmm_terminal_leave(void)
{
    int fd = terminal;

    if (fd < 0)
        return;
    if (getpid() == owner)
        restore(fd);
    terminal = -1;
    uninstall();
}
