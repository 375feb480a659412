/* Running a vCPU (Documentation/virt/kvm/api.rst, KVM_RUN and struct kvm_run). */
#ifndef PYVMM_VCPU_H
#define PYVMM_VCPU_H

#include <stdatomic.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "interrupt_status.h"
#include "fastport.h"

/* Why a run ended. A flat struct, so that Python reads each field with one look-up. */
struct pyvmm_exit {
    uint32_t error;   /* an errno, EINTR after a kick; 0 where the other fields are valid */
    uint32_t reason;  /* KVM_EXIT_* */
    uint32_t size;    /* bytes of each access */
    uint32_t count;   /* number of accesses, above 1 for string I/O */
    uint32_t is_write;
    uint64_t address; /* the port or the guest-physical address */
    uint64_t data_offset; /* offset of the data in struct kvm_run */
    uint64_t key; /* a number made of kind, address, size and direction of a single access; 0 for any other exit */
};

struct pyvmm_vcpu {
    int fd;
    struct kvm_run *run;
    struct pyvmm_fast_ports *fast;
    struct pyvmm_interrupt_status_table *interrupt_status;
    struct pyvmm_exit exit; /* the last one */
    _Atomic int thread;     /* the kernel's ID of the thread that runs the vCPU; 0 for none */
};

/* Runs the vCPU up to the next exit that neither fast ports nor InterruptStatus handle. Fills `exit` and returns its
 * key. The data of a read is set to all ones. */
uint64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu);

/* Says that the calling thread runs the vCPU from now on. Installs a handler that does nothing for the signal of kicks,
 * and unblocks the signal. 0, or an errno. */
int pyvmm_vcpu_enter_thread(struct pyvmm_vcpu *vcpu);

/* Says that no thread runs the vCPU any more. */
void pyvmm_vcpu_leave_thread(struct pyvmm_vcpu *vcpu);

/* Makes the current run of the vCPU, or the next one, end with EINTR. 0, or an errno. From any thread. */
int pyvmm_vcpu_kick(struct pyvmm_vcpu *vcpu);

/* ioctl(2) with a pointer or an integer as argument: its result, or a negated errno. */
long pyvmm_ioctl(int fd, unsigned long request, void *argument);
long pyvmm_ioctl_int(int fd, unsigned long request, unsigned long argument);

/* The number that details the last exit: suberror, entry failure reason, or event type; 0 where it has none. */
uint64_t pyvmm_exit_detail(struct kvm_run *run);

#endif
