#include "vcpu.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int kick_signal(void) { return SIGRTMIN + 4; }

static void on_kick(int signal) { (void)signal; }

int pyvmm_vcpu_enter_thread(struct pyvmm_vcpu *vcpu)
{
    /* Without SA_RESTART, since the signal must end KVM_RUN. */
    struct sigaction action = {.sa_handler = on_kick};
    sigemptyset(&action.sa_mask);
    if (sigaction(kick_signal(), &action, NULL))
        return errno;
    /* This process may have inherited the signal as blocked: then it would not end KVM_RUN. */
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, kick_signal());
    int error = pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    if (!error)
        atomic_store(&vcpu->thread, (int)syscall(SYS_gettid));
    return error;
}

void pyvmm_vcpu_leave_thread(struct pyvmm_vcpu *vcpu) { atomic_store(&vcpu->thread, 0); }

int pyvmm_vcpu_kick(struct pyvmm_vcpu *vcpu)
{
    /* A thread on its way into KVM_RUN sees the flag, one that is inside gets the signal: no race is left. The flag is
     * set first, since a thread that is not known here yet enters KVM_RUN after that. */
    atomic_store((_Atomic uint8_t *)&vcpu->run->immediate_exit, 1);
    int thread = atomic_load(&vcpu->thread);
    if (thread == 0)
        return 0;
    return syscall(SYS_tgkill, getpid(), thread, kick_signal()) ? errno : 0;
}

/* Guest-physical addresses have up to 52 bits, sizes are up to 8 bytes. */
static uint64_t key_of(const struct pyvmm_exit *exit)
{
    if (exit->count != 1)
        return 0;
    return (uint64_t)(exit->reason == KVM_EXIT_IO ? 1 : 2) << 60 | (uint64_t)(exit->is_write != 0) << 59 |
           (uint64_t)(exit->size & 0xf) << 52 | (exit->address & 0xfffffffffffff);
}

uint64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    struct pyvmm_exit *out = &vcpu->exit;

    out->key = 0;
    out->error = 0;
    do {
        if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
            out->error = (uint32_t)errno;
            if (errno == EINTR || errno == EAGAIN) {
                atomic_store((_Atomic uint8_t *)&run->immediate_exit, 0);
                out->error = EINTR;
            }
            return 0;
        }
    } while (pyvmm_fast_ports_handle(vcpu->fast, run) || pyvmm_interrupt_status_handle(vcpu->interrupt_status, run));
    out->reason = run->exit_reason;
    switch (run->exit_reason) {
    case KVM_EXIT_MMIO:
        out->address = run->mmio.phys_addr;
        out->size = run->mmio.len;
        out->count = 1;
        out->is_write = run->mmio.is_write;
        out->data_offset = offsetof(struct kvm_run, mmio.data);
        break;
    case KVM_EXIT_IO:
        out->address = run->io.port;
        out->size = run->io.size;
        out->count = run->io.count;
        out->is_write = run->io.direction == KVM_EXIT_IO_OUT;
        out->data_offset = run->io.data_offset;
        break;
    default:
        return 0;
    }
    if (!out->is_write)
        memset((uint8_t *)run + out->data_offset, 0xff, (size_t)out->size * out->count);
    return out->key = key_of(out);
}

long pyvmm_ioctl(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

long pyvmm_ioctl_int(int fd, unsigned long request, unsigned long argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

uint64_t pyvmm_exit_detail(struct kvm_run *run)
{
    if (!run)
        return 0;
    switch (run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR:
        return run->internal.suberror;
    case KVM_EXIT_FAIL_ENTRY:
        return run->fail_entry.hardware_entry_failure_reason;
    case KVM_EXIT_SYSTEM_EVENT:
        return run->system_event.type;
    case KVM_EXIT_UNKNOWN:
        return run->hw.hardware_exit_reason;
    }
    return 0;
}
