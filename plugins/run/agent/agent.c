// The guest's end of pyvmm-run: it runs commands for the host, over vsock (see PROTOCOL.md).
//
// As the guest's first process it loads the modules of its initramfs, tells the host that it is there, and does what
// the host asks for: mounts first, then commands. The guest ends when the host's first connection ends.
//
// With a directory as its argument it is a process of the host, for tests: Unix sockets in that directory take the
// place of the device.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum {
    VERSION = 1,
    HELLO_PORT = 1024,   // of the host
    COMMAND_PORT = 1025, // of the guest
    HEADER = 8,
    MAX_DATA = 1 << 16,
    WINDOW = 1 << 18,
    MAX_REQUEST = 4 << 20,
};

enum type {
    REQUEST = 1, // host: a part of a request: texts, each with a zero byte at its end
    START = 2,   // host: the request is whole
    DATA = 3,    // both: bytes of a stream
    END = 4,     // both: the end of a stream
    CREDIT = 5,  // both: uint32, so many more bytes of a stream may be sent
    SIGNAL = 6,  // host: uint32
    SIZE = 7,    // host: uint16 rows, uint16 columns
    HELLO = 16,  // guest: uint32 version
    STARTED = 17,
    FAILED = 18, // guest: uint32 errno, a text
    EXIT = 19,   // guest: uint32, a status or 256 + a signal
};

// Read and written with a little-endian processor's own order; the VMM has no other guests.
struct header {
    uint8_t type;
    uint8_t stream;
    uint16_t zero;
    uint32_t length;
};

// The texts of a request, and where a reader is in them.
struct request {
    char *bytes;
    size_t length, at;
};

static bool is_init;
static const char *directory; // of the sockets, in a process of the host

// Ends a process of ours; the first one ends the guest.
static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "pyvmm-run: %s: %s\n", what, strerror(errno));
    if (is_init) {
        sync();
        reboot(RB_POWER_OFF);
    }
    _exit(1);
}

static void write_all(int fd, const void *data, size_t length)
{
    for (const char *at = data; length;) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            give_up("write to the host");
        at += n;
        length -= n;
    }
}

// Returns false at the end of the connection.
static bool read_all(int fd, void *data, size_t length)
{
    for (char *at = data; length;) {
        ssize_t n = read(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        length -= n;
    }
    return true;
}

static void send_frame(int fd, enum type type, uint8_t stream, const void *data, uint32_t length)
{
    char frame[HEADER + 512];
    struct header header = {type, stream, 0, length};

    memcpy(frame, &header, HEADER);
    memcpy(frame + HEADER, data, length);
    write_all(fd, frame, HEADER + length);
}

static void send_failure(int fd, int number, const char *what)
{
    char data[4 + 256];
    uint32_t value = number;
    size_t length = strnlen(what, 256);

    memcpy(data, &value, 4);
    memcpy(data + 4, what, length);
    send_frame(fd, FAILED, 0, data, 4 + length);
}

// Reads a request with its START; returns false at the end of the connection and for what is none.
static bool read_request(int fd, struct request *request)
{
    struct header header;

    free(request->bytes);
    *request = (struct request){0};
    while (read_all(fd, &header, HEADER)) {
        if (header.type == START && header.length == 0)
            return request->length == 0 || request->bytes[request->length - 1] == '\0';
        if (header.type != REQUEST || header.length > MAX_DATA || request->length + header.length > MAX_REQUEST)
            return false;
        char *bytes = realloc(request->bytes, request->length + header.length + 1);
        if (!bytes)
            return false;
        request->bytes = bytes;
        if (!read_all(fd, bytes + request->length, header.length))
            return false;
        request->length += header.length;
    }
    return false;
}

// The next text of a request, or NULL.
static char *next(struct request *request)
{
    if (request->at >= request->length)
        return NULL;
    char *text = request->bytes + request->at;
    request->at += strlen(text) + 1;
    return text;
}

static char *next_or_empty(struct request *request)
{
    char *text = next(request);
    return text ? text : "";
}

// --- sockets ---------------------------------------------------------------------------------------------------------

static int make_socket(struct sockaddr_storage *address, socklen_t *length, const char *name, unsigned cid, unsigned port)
{
    memset(address, 0, sizeof *address);
    if (directory) {
        struct sockaddr_un *un = (void *)address;
        un->sun_family = AF_UNIX;
        if ((size_t)snprintf(un->sun_path, sizeof un->sun_path, "%s/%s", directory, name) >= sizeof un->sun_path) {
            errno = ENAMETOOLONG;
            give_up(directory);
        }
        *length = sizeof *un;
        return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    }
    struct sockaddr_vm *vm = (void *)address;
    vm->svm_family = AF_VSOCK;
    vm->svm_cid = cid;
    vm->svm_port = port;
    *length = sizeof *vm;
    return socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int connect_to_host(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int fd = make_socket(&address, &length, "vsock_1024", VMADDR_CID_HOST, HELLO_PORT);

    if (fd < 0 || connect(fd, (void *)&address, length))
        give_up("connect to the host");
    return fd;
}

static int listen_for_host(void)
{
    struct sockaddr_storage address;
    socklen_t length;
    int fd = make_socket(&address, &length, "vsock", VMADDR_CID_ANY, COMMAND_PORT);

    if (fd < 0 || bind(fd, (void *)&address, length) || listen(fd, 128))
        give_up("listen for the host");
    return fd;
}

// What the vsock device of a machine does: a line CONNECT, and its answer.
static bool shake_hands(int fd)
{
    static const char wanted[] = "CONNECT 1025\n";
    char line[sizeof wanted] = "";

    if (!read_all(fd, line, sizeof wanted - 1) || strcmp(line, wanted))
        return false;
    write_all(fd, "OK 1\n", 5);
    return true;
}

// --- the guest -------------------------------------------------------------------------------------------------------

static int make_directories(const char *path)
{
    char part[PATH_MAX];

    if (strlen(path) >= sizeof part) {
        errno = ENAMETOOLONG;
        return -1;
    }
    for (const char *at = path + 1;; at++) {
        if (*at && *at != '/')
            continue;
        memcpy(part, path, at - path);
        part[at - path] = '\0';
        struct stat status;
        if (mkdir(part, 0755) && errno != EEXIST && stat(part, &status))
            return -1;
        if (!*at)
            return 0;
    }
}

static void load_module(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
        fprintf(stderr, "pyvmm-run: %s: %s\n", path, strerror(errno));
    close(fd);
}

static void load_modules(void)
{
    FILE *list = fopen("/modules/list", "re");
    char path[PATH_MAX];

    while (list && fgets(path, sizeof path, list)) {
        path[strcspn(path, "\n")] = '\0';
        load_module(path);
    }
    if (list)
        fclose(list);
}

static void set_up_loopback(void)
{
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    ioctl(fd, SIOCSIFFLAGS, &request);
    close(fd);
}

static void begin_as_init(void)
{
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, NULL);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
    int null = open("/dev/null", O_RDWR);
    int messages = open("/dev/kmsg", O_WRONLY);
    dup2(null, 0);
    dup2(null, 1);
    dup2(messages >= 0 ? messages : null, 2);
    if (null > 2)
        close(null);
    if (messages > 2)
        close(messages);
    setvbuf(stderr, NULL, _IOLBF, 512);
    load_modules();
    set_up_loopback();
}

// Writes a file anew; 0, or -1 and errno.
static int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    if (fd < 0)
        return -1;
    ssize_t n = write(fd, text, strlen(text));
    return close(fd) || n < 0 ? -1 : 0;
}

// One step of the guest's setup; returns -1, with errno and what it was about.
static int set_up_one(char step, struct request *request, const char **about)
{
    char *type, *source, *flags;

    *about = next_or_empty(request);
    switch (step) {
    case 'M': // a mount: target, type, source, flags, data
        type = next_or_empty(request);
        source = next_or_empty(request);
        flags = next_or_empty(request);
        char *data = next_or_empty(request);
        if (make_directories(*about))
            return -1;
        return mount(source, *about, type, strtoul(flags, NULL, 0), *data ? data : NULL);
    case 'D': // a directory
        return make_directories(*about);
    case 'R': // the root: a directory
        return chdir(*about) || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/") ? -1 : 0;
    case 'L': // a link: its path, what it says
        return symlink(next_or_empty(request), *about) && errno != EEXIST ? -1 : 0;
    case 'F': // a file: its path, its text
        return write_file(*about, next_or_empty(request));
    case 'H': // the host name
        return sethostname(*about, strlen(*about));
    }
    errno = EBADMSG;
    return -1;
}

static void set_up(int host, struct request *request)
{
    for (char *step; (step = next(request));) {
        const char *about;
        if (!is_init) { // it is the host that would be set up
            send_failure(host, EPERM, "setup");
            return;
        }
        if (set_up_one(*step, request, &about)) {
            send_failure(host, errno, about);
            return;
        }
    }
    send_frame(host, STARTED, 0, "", 0);
}

// --- one command -----------------------------------------------------------------------------------------------------

struct output {
    int fd;
    uint8_t stream;
    bool ended;
    uint32_t credit;
};

struct session {
    int host;
    pid_t pid;
    bool is_tty;
    int signals; // a signalfd for SIGCHLD
    bool exited;
    uint32_t status;
    struct output outputs[2];
    // The command's input: what is buffered of it, in a ring.
    int input;
    bool input_ends;
    size_t input_at, input_length;
    char input_bytes[WINDOW];
    // For the host, from sent to filled.
    size_t sent, filled;
    char to_host[4 * (HEADER + MAX_DATA)];
    // Of the host.
    size_t received;
    char from_host[HEADER + MAX_DATA];
};

// What the command's process does in place of a program: it copies a file. The status is an errno.
static _Noreturn void copy_file(const char *path, bool to_file)
{
    static char buffer[MAX_DATA];
    int file = open(path, to_file ? O_WRONLY | O_CREAT | O_TRUNC : O_RDONLY, 0666);
    int from = to_file ? 0 : file, to = to_file ? file : 1;
    ssize_t n;

    if (file < 0)
        _exit(errno);
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0, m; done < n; done += m)
            if ((m = write(to, buffer + done, n - done)) < 0)
                _exit(errno);
    _exit(n < 0 || close(file) ? errno : 0);
}

static _Noreturn void fail_in_child(int report, const char *what)
{
    char text[260];
    int number = errno, length;

    memcpy(text, &number, 4);
    length = snprintf(text + 4, sizeof text - 4, "%s", what);
    if (length > (int)sizeof text - 5)
        length = sizeof text - 5;
    if (write(report, text, 4 + length) < 0)
        _exit(126);
    _exit(127);
}

// The command's process, up to the program.
static _Noreturn void become(struct request *request, const int fds[3], bool is_tty, int report)
{
    char **arguments = calloc(request->length + 1, sizeof *arguments);
    char **environment = calloc(request->length + 1, sizeof *environment);
    size_t argument_count = 0, environment_count = 0;
    const char *place = "/", *read_path = NULL, *write_path = NULL;

    if (!arguments || !environment)
        fail_in_child(report, "memory");
    setsid();
    if (is_tty)
        ioctl(fds[0], TIOCSCTTY, 0);
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);

    request->at = 0;
    for (char *text; (text = next(request));)
        switch (*text) {
        case 'a':
            arguments[argument_count++] = text + 1;
            break;
        case 'e':
            environment[environment_count++] = text + 1;
            break;
        case 'd':
            place = text + 1;
            break;
        case 'r':
            read_path = text + 1;
            break;
        case 'w':
            write_path = text + 1;
            break;
        }
    if (chdir(place))
        fail_in_child(report, place);
    if (read_path || write_path) {
        for (int fd = 3; fd < 64; fd++)
            close(fd); // there is no exec to close the other end of its input
        copy_file(read_path ? read_path : write_path, write_path != NULL);
    }
    if (!argument_count) {
        errno = EINVAL;
        fail_in_child(report, "no command");
    }
    environ = environment;
    execvp(arguments[0], arguments);
    fail_in_child(report, arguments[0]);
}

static void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static void set_size(int fd, unsigned rows, unsigned columns)
{
    struct winsize size = {.ws_row = rows, .ws_col = columns};
    ioctl(fd, TIOCSWINSZ, &size);
}

// A terminal: its master is the command's input and output, its slave all three of the command's streams.
static bool open_terminal(struct session *s, const char *size, int theirs[3])
{
    unsigned rows = 0, columns = 0;
    int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    char name[64];

    if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, name, sizeof name))
        return false;
    int slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return false;
    sscanf(size, "%u %u", &rows, &columns);
    set_size(master, rows, columns);
    theirs[0] = theirs[1] = theirs[2] = slave;
    s->input = s->outputs[0].fd = master;
    s->outputs[1].fd = -1;
    return true;
}

static bool open_pipes(struct session *s, int theirs[3])
{
    int pipes[3][2];

    for (int i = 0; i < 3; i++)
        if (pipe2(pipes[i], O_CLOEXEC))
            return false;
    theirs[0] = pipes[0][0];
    theirs[1] = pipes[1][1];
    theirs[2] = pipes[2][1];
    s->input = pipes[0][1];
    s->outputs[0].fd = pipes[1][0];
    s->outputs[1].fd = pipes[2][0];
    return true;
}

// Starts the command; returns false after a failure that the host was told of.
static bool start(struct session *s, struct request *request)
{
    const char *size = NULL;
    int theirs[3], report[2];

    for (char *text; (text = next(request));)
        if (*text == 't')
            size = text + 1;
    s->is_tty = size != NULL;
    if (!(s->is_tty ? open_terminal(s, size, theirs) : open_pipes(s, theirs)) || pipe2(report, O_CLOEXEC)) {
        send_failure(s->host, errno, s->is_tty ? "terminal" : "pipes");
        return false;
    }
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    s->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    s->pid = fork();
    if (s->pid < 0) {
        send_failure(s->host, errno, "fork");
        return false;
    }
    if (s->pid == 0)
        become(request, theirs, s->is_tty, report[1]);
    close(report[1]);
    for (int i = 0; i < (s->is_tty ? 1 : 3); i++)
        close(theirs[i]);
    char failure[260];
    ssize_t n = read(report[0], failure, sizeof failure - 1);
    close(report[0]);
    if (n >= 4) {
        int number;
        memcpy(&number, failure, 4);
        failure[n] = '\0';
        waitpid(s->pid, NULL, 0);
        send_failure(s->host, number, failure + 4);
        return false;
    }
    return true;
}

static void queue(struct session *s, enum type type, uint8_t stream, const void *data, uint32_t length)
{
    struct header header = {type, stream, 0, length};

    memcpy(s->to_host + s->filled, &header, HEADER);
    memcpy(s->to_host + s->filled + HEADER, data, length);
    s->filled += HEADER + length;
}

// Whether there is room for a frame of data and for some small ones beside it.
static bool has_room(struct session *s)
{
    return s->filled + HEADER + MAX_DATA + 16 * (HEADER + 4) <= sizeof s->to_host;
}

// Ends what is left of the command, and this process.
static _Noreturn void leave(struct session *s)
{
    if (!s->exited)
        kill(-s->pid, SIGKILL);
    _exit(0);
}

// The command gets SIGPIPE for what it writes then.
static void nobody_reads(struct output *output)
{
    if (output->fd >= 0)
        close(output->fd);
    output->fd = -1;
    output->credit = 1;
}

static void take_frame(struct session *s, struct header *header, const char *data)
{
    uint32_t value = 0;

    if (header->length >= 4)
        memcpy(&value, data, 4);
    switch (header->type) {
    case DATA:
        if (header->stream != 0 || s->input_length + header->length > WINDOW)
            leave(s);
        if (s->input < 0)
            break; // nobody reads it
        for (size_t i = 0; i < header->length;) {
            size_t end = (s->input_at + s->input_length) % WINDOW;
            size_t n = header->length - i < WINDOW - end ? header->length - i : WINDOW - end;
            memcpy(s->input_bytes + end, data + i, n);
            s->input_length += n;
            i += n;
        }
        break;
    case END:
        if (header->stream == 0)
            s->input_ends = true;
        else if (header->stream <= 2 && !s->is_tty)
            nobody_reads(&s->outputs[header->stream - 1]);
        break;
    case CREDIT:
        if (header->stream == 1 || header->stream == 2)
            s->outputs[header->stream - 1].credit += value;
        break;
    case SIGNAL:
        if (!s->exited)
            kill(-s->pid, value);
        break;
    case SIZE:
        if (s->is_tty && s->outputs[0].fd >= 0)
            set_size(s->outputs[0].fd, value & 0xffff, value >> 16);
        break;
    default:
        leave(s);
    }
}

static void receive(struct session *s)
{
    ssize_t n = read(s->host, s->from_host + s->received, sizeof s->from_host - s->received);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        leave(s);
    s->received += n;
    size_t at = 0;
    while (s->received - at >= HEADER) {
        struct header header;
        memcpy(&header, s->from_host + at, HEADER);
        if (header.length > MAX_DATA)
            leave(s);
        if (s->received - at < HEADER + header.length)
            break;
        take_frame(s, &header, s->from_host + at + HEADER);
        at += HEADER + header.length;
    }
    memmove(s->from_host, s->from_host + at, s->received - at);
    s->received -= at;
}

static void flush_to_host(struct session *s)
{
    while (s->sent < s->filled) {
        ssize_t n = write(s->host, s->to_host + s->sent, s->filled - s->sent);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            break;
        if (n < 0)
            leave(s);
        s->sent += n;
    }
    memmove(s->to_host, s->to_host + s->sent, s->filled - s->sent);
    s->filled -= s->sent;
    s->sent = 0;
}

static void close_input(struct session *s)
{
    if (!s->is_tty && s->input >= 0)
        close(s->input);
    s->input = -1;
    s->input_length = 0;
}

static void feed_input(struct session *s)
{
    while (s->input >= 0 && s->input_length && has_room(s)) {
        size_t n = s->input_length < WINDOW - s->input_at ? s->input_length : WINDOW - s->input_at;
        ssize_t done = write(s->input, s->input_bytes + s->input_at, n);
        if (done < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (done < 0) {
            close_input(s); // nobody reads any more
            return;
        }
        s->input_at = (s->input_at + done) % WINDOW;
        s->input_length -= done;
        uint32_t credit = done;
        queue(s, CREDIT, 0, &credit, 4);
    }
    if (s->input >= 0 && s->input_ends && !s->input_length) {
        if (s->is_tty && write(s->input, "\4", 1) < 0 && errno == EAGAIN)
            return;
        close_input(s);
    }
}

static void read_output(struct session *s, struct output *output)
{
    while (!output->ended && output->credit && has_room(s)) {
        uint32_t most = output->credit < MAX_DATA ? output->credit : MAX_DATA;
        char *frame = s->to_host + s->filled;
        ssize_t n = output->fd < 0 ? 0 : read(output->fd, frame + HEADER, most);
        if (n < 0 && errno == EINTR)
            continue;
        // When the command has ended, its streams end with what is in them: others may hold them open for ever.
        if (n < 0 && errno == EAGAIN && !s->exited)
            return;
        if (n <= 0) {
            output->ended = true;
            queue(s, END, output->stream, "", 0);
            return;
        }
        struct header header = {DATA, output->stream, 0, n};
        memcpy(frame, &header, HEADER);
        s->filled += HEADER + n;
        output->credit -= n;
    }
}

static void take_exit(struct session *s)
{
    struct signalfd_siginfo info;
    int status;

    while (read(s->signals, &info, sizeof info) > 0)
        ;
    if (!s->exited && waitpid(s->pid, &status, WNOHANG) == s->pid) {
        s->exited = true;
        s->status = WIFSIGNALED(status) ? 256 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

static void wait_for_something(struct session *s)
{
    struct pollfd fds[5] = {
        {s->host, POLLIN | (s->filled ? POLLOUT : 0), 0},
        {s->signals, POLLIN, 0},
        {s->input_length || s->input_ends ? s->input : -1, POLLOUT, 0},
    };
    for (int i = 0; i < 2; i++) {
        struct output *output = &s->outputs[i];
        bool waits = !output->ended && output->credit && has_room(s);
        fds[3 + i] = (struct pollfd){waits ? output->fd : -1, POLLIN, 0};
    }
    poll(fds, 5, -1);
    if (fds[0].revents & ~POLLOUT)
        receive(s);
}

static _Noreturn void serve_command(int host)
{
    static struct session session;
    static struct request request;
    struct session *s = &session;

    s->host = host;
    s->outputs[0] = (struct output){-1, 1, false, WINDOW};
    s->outputs[1] = (struct output){-1, 2, false, WINDOW};
    if (!read_request(host, &request) || !start(s, &request))
        _exit(0);
    send_frame(host, STARTED, 0, "", 0);
    set_nonblocking(host);
    if (s->input >= 0)
        set_nonblocking(s->input);
    for (int i = 0; i < 2; i++)
        if (s->outputs[i].fd >= 0)
            set_nonblocking(s->outputs[i].fd);
    while (!s->exited || !s->outputs[0].ended || !s->outputs[1].ended) {
        take_exit(s);
        feed_input(s);
        for (int i = 0; i < 2; i++)
            read_output(s, &s->outputs[i]);
        flush_to_host(s);
        if (!s->exited || !s->outputs[0].ended || !s->outputs[1].ended)
            wait_for_something(s);
    }
    uint32_t status = s->status;
    queue(s, EXIT, 0, &status, 4);
    fcntl(host, F_SETFL, fcntl(host, F_GETFL) & ~O_NONBLOCK);
    flush_to_host(s);
    // The host closes when it has all of it.
    shutdown(host, SHUT_WR);
    while (read(host, s->from_host, sizeof s->from_host) > 0)
        ;
    _exit(0);
}

// --- the first process -----------------------------------------------------------------------------------------------

static void reap(int signals)
{
    struct signalfd_siginfo info;

    while (read(signals, &info, sizeof info) > 0)
        ;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static void accept_command(int listening, int host, int signals)
{
    int fd = accept4(listening, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    if (fork() == 0) {
        is_init = false;
        close(listening);
        close(host);
        close(signals);
        if (!directory || shake_hands(fd))
            serve_command(fd);
        _exit(0);
    }
    close(fd);
}

int main(int count, char **arguments)
{
    is_init = getpid() == 1;
    if (is_init)
        begin_as_init();
    else if (count == 2)
        directory = arguments[1];
    else
        return fprintf(stderr, "usage: agent DIRECTORY\n"), 2;
    signal(SIGPIPE, SIG_IGN);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    int signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    int listening = listen_for_host();
    int host = connect_to_host();
    uint32_t version = VERSION;
    send_frame(host, HELLO, 0, &version, 4);
    struct request request = {0};
    for (;;) {
        struct pollfd fds[] = {{host, POLLIN, 0}, {listening, POLLIN, 0}, {signals, POLLIN, 0}};
        poll(fds, 3, -1);
        if (fds[2].revents)
            reap(signals);
        if (fds[1].revents)
            accept_command(listening, host, signals);
        if (fds[0].revents) {
            if (!read_request(host, &request)) {
                errno = 0;
                if (is_init) {
                    sync();
                    reboot(RB_POWER_OFF);
                }
                return 0;
            }
            set_up(host, &request);
        }
    }
}
