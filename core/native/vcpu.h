/* Running a vCPU (Documentation/virt/kvm/api.rst, KVM_RUN and struct kvm_run). */
#ifndef PYVMM_VCPU_H
#define PYVMM_VCPU_H

#include <stdatomic.h>
#include <stdint.h>

#include <linux/kvm.h>

#include "interrupt_status.h"
#include "fastport.h"

/* What a run ended with, flat: reading it from Python costs one look-up a field. */
struct pyvmm_exit {
    uint32_t error;   /* an errno, EINTR after a kick; 0 where the rest counts */
    uint32_t reason;  /* KVM_EXIT_* */
    uint32_t size;    /* bytes of one access */
    uint32_t count;   /* accesses; above 1 for string I/O */
    uint32_t is_write;
    uint64_t address; /* the port or the physical address */
    uint64_t data_offset; /* where the data is in struct kvm_run */
    uint64_t key; /* one number for what, where, how wide and which way a single access is; 0 for any other exit */
};

struct pyvmm_vcpu {
    int fd;
    struct kvm_run *run;
    struct pyvmm_fast_ports *fast;
    struct pyvmm_interrupt_status_table *interrupt_status;
    struct pyvmm_exit exit; /* the last one */
    _Atomic int thread;     /* that runs it, a kernel's thread ID; 0 for none */
};

/* Runs the vCPU up to the next exit that neither fast ports nor InterruptStatus handle, and fills `exit`; its key.
 * The data of a read is all ones then. */
uint64_t pyvmm_vcpu_run(struct pyvmm_vcpu *vcpu);

/* The calling thread is the one that runs the vCPU: makes the kicks' signal one that only interrupts, and reaches it; 0
 * or an errno. */
int pyvmm_vcpu_enter_thread(struct pyvmm_vcpu *vcpu);

/* It runs the vCPU no more. */
void pyvmm_vcpu_leave_thread(struct pyvmm_vcpu *vcpu);

/* Makes the present or next run of the vCPU return EINTR; 0 or an errno. From any thread. */
int pyvmm_vcpu_kick(struct pyvmm_vcpu *vcpu);

/* An ioctl by number with a pointer or an integer for argument: its result, or an errno negated. */
long pyvmm_ioctl(int fd, unsigned long request, void *argument);
long pyvmm_ioctl_int(int fd, unsigned long request, unsigned long argument);

/* The number that says more about the last exit: suberror, entry failure, event type; 0 where there is none. */
uint64_t pyvmm_exit_detail(struct kvm_run *run);

#endif
