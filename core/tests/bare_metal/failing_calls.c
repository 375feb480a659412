/* A library to preload: the Nth call of one function fails.
 *
 * FAIL_CALL is the function's name and FAIL_ERRNO the errno's number. FAIL_AT says which call fails, 1 the first; with
 * FAIL_ALWAYS=1, all those after it as well. FAIL_FORK says in which process: 0 is the first, 1 the first fork that it
 * makes, and so on. A fork counts anew. Calls count from the moment on at which the first process has opened a file
 * whose path has FAIL_FROM in it. When the process's call has failed, the file FAIL_MARK is made: without it, the
 * process makes fewer calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *call, *from, *mark;
static int at, error, always, which, process, forks, counting;
static atomic_int count;

static const char *setting(const char *name, const char *other)
{
    const char *value = getenv(name);
    return value ? value : other;
}

static void begin_fork(void)
{
    process = counting ? ++forks : -1;
    forks = 0;
    count = 0;
}

static void count_fork(void) { forks += counting; }

__attribute__((constructor)) static void begin(void)
{
    call = setting("FAIL_CALL", "");
    from = setting("FAIL_FROM", "");
    mark = setting("FAIL_MARK", "");
    at = atoi(setting("FAIL_AT", "0"));
    error = atoi(setting("FAIL_ERRNO", "0"));
    always = atoi(setting("FAIL_ALWAYS", "0"));
    which = atoi(setting("FAIL_FORK", "0"));
    counting = !*from;
    pthread_atfork(NULL, count_fork, begin_fork);
}

static void look_at(const char *path)
{
    if (!counting && path && strstr(path, from))
        counting = 1;
}

/* Whether this call of the function `name` fails. */
static int fails(const char *name)
{
    if (!counting || process != which || strcmp(name, call))
        return 0;
    int number = atomic_fetch_add(&count, 1) + 1;
    if (number < at || (number > at && !always))
        return 0;
    if (number == at)
        syscall(SYS_close, syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define FUNCTION(type, failure, name, parameters, arguments) \
    type name parameters                                     \
    {                                                        \
        if (fails(#name))                                    \
            return failure;                                  \
        return REAL(name) arguments;                         \
    }

#define ERRNO_FUNCTION(name, parameters, arguments) \
    int name parameters                             \
    {                                               \
        if (fails(#name))                           \
            return error;                           \
        return REAL(name) arguments;                \
    }

/* Those with another name for large files count as one. */
static int open_any(const char *path, int flags, mode_t mode)
{
    look_at(path);
    return fails("open") ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

#define MODE(last) \
    va_list list;  \
    va_start(list, last); \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
    va_end(list)

int open(const char *path, int flags, ...)
{
    MODE(flags);
    return open_any(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    MODE(flags);
    return open_any(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    look_at(path);
    return fails("fopen") ? NULL : REAL(fopen)(path, mode);
}

FILE *fopen64(const char *path, const char *mode)
{
    look_at(path);
    return fails("fopen") ? NULL : REAL(fopen64)(path, mode);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    return fails("mmap") ? MAP_FAILED : REAL(mmap)(address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off64_t offset)
{
    return fails("mmap") ? MAP_FAILED : REAL(mmap)(address, length, protection, flags, fd, offset);
}

int ftruncate64(int fd, off64_t length) { return fails("ftruncate") ? -1 : REAL(ftruncate64)(fd, length); }
FUNCTION(int, -1, ftruncate, (int fd, off_t length), (fd, length))

int fcntl_any(int fd, int command, void *argument)
{
    if ((command == F_DUPFD || command == F_DUPFD_CLOEXEC) && fails("fcntl"))
        return -1;
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

int fcntl(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return fcntl_any(fd, command, argument);
}

int fcntl64(int fd, int command, ...)
{
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    return fcntl_any(fd, command, argument);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    return fails("ioctl") ? -1 : (int)syscall(SYS_ioctl, fd, request, argument);
}

long syscall(long number, ...)
{
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    const char *name = number == SYS_io_uring_setup      ? "io_uring_setup"
                       : number == SYS_io_uring_register ? "io_uring_register"
                       : number == SYS_io_uring_enter    ? "io_uring_enter"
                       : number == SYS_pidfd_open        ? "pidfd_open"
                       : number == SYS_pidfd_send_signal ? "pidfd_send_signal"
                                                         : "";
    if (*name && fails(name))
        return -1;
    long result;
    register long r10 __asm__("r10") = a[3];
    register long r8 __asm__("r8") = a[4];
    register long r9 __asm__("r9") = a[5];
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    if (op != EPOLL_CTL_DEL && fails("epoll_ctl")) /* to forget one takes nothing of the host's */
        return -1;
    return REAL(epoll_ctl)(epoll, op, fd, event);
}

FUNCTION(int, -1, socket, (int domain, int type, int protocol), (domain, type, protocol))
FUNCTION(int, -1, socketpair, (int domain, int type, int protocol, int fds[2]), (domain, type, protocol, fds))
FUNCTION(int, -1, bind, (int fd, const struct sockaddr *name, socklen_t size), (fd, name, size))
FUNCTION(int, -1, listen, (int fd, int backlog), (fd, backlog))
FUNCTION(int, -1, accept4, (int fd, struct sockaddr *name, socklen_t *size, int flags), (fd, name, size, flags))
FUNCTION(int, -1, pipe2, (int fds[2], int flags), (fds, flags))
FUNCTION(int, -1, eventfd, (unsigned value, int flags), (value, flags))
FUNCTION(int, -1, epoll_create1, (int flags), (flags))
FUNCTION(int, -1, dup, (int fd), (fd))
FUNCTION(int, -1, dup2, (int fd, int other), (fd, other))
FUNCTION(int, -1, dup3, (int fd, int other, int flags), (fd, other, flags))
FUNCTION(int, -1, memfd_create, (const char *name, unsigned flags), (name, flags))
FUNCTION(int, -1, mkdir, (const char *path, mode_t mode), (path, mode))
FUNCTION(pid_t, -1, fork, (void), ())
FUNCTION(ssize_t, -1, preadv, (int fd, const struct iovec *v, int n, off_t offset), (fd, v, n, offset))
FUNCTION(ssize_t, -1, preadv2, (int fd, const struct iovec *v, int n, off_t o, int flags), (fd, v, n, o, flags))
FUNCTION(ssize_t, -1, read, (int fd, void *data, size_t size), (fd, data, size))
FUNCTION(ssize_t, -1, write, (int fd, const void *data, size_t size), (fd, data, size))
FUNCTION(ssize_t, -1, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags))
FUNCTION(ssize_t, -1, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
ERRNO_FUNCTION(pthread_create, (pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument),
               (thread, attributes, start, argument))
ERRNO_FUNCTION(posix_spawn,
               (pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                const posix_spawnattr_t *attributes, char *const arguments[], char *const environment[]),
               (pid, path, actions, attributes, arguments, environment))
