/* Ports whose accesses need no decision: writes that are only collected, reads that have one answer for now.
 *
 * A kernel's console makes two accesses a character. The vCPU's thread answers them here, without Python's
 * interpreter and its lock, for as long as the device says so.
 */
#ifndef PYVMM_FASTPORT_H
#define PYVMM_FASTPORT_H

#include <stdatomic.h>
#include <stdint.h>

#include <linux/kvm.h>

#define PYVMM_MAX_FAST_PORTS 16
#define PYVMM_POST_SIZE 8192

struct pyvmm_fast_port {
    uint16_t port;
    _Atomic uint8_t posts_writes; /* a byte written is collected */
    _Atomic uint8_t answers_reads; /* a byte read is `answer` */
    _Atomic uint8_t answer;
    int event; /* eventfd: signalled when the first byte is collected */
    atomic_flag lock;
    uint32_t length;
    uint8_t posted[PYVMM_POST_SIZE];
};

struct pyvmm_fast_ports {
    _Atomic uint32_t count;
    struct pyvmm_fast_port ports[PYVMM_MAX_FAST_PORTS];
};

/* Handles an exit of a vCPU if a fast port does: 1 when it did. */
int pyvmm_fast_ports_handle(struct pyvmm_fast_ports *ports, struct kvm_run *run);

/* A new fast port, all off; NULL when there are too many. */
struct pyvmm_fast_port *pyvmm_fast_ports_add(struct pyvmm_fast_ports *ports, uint16_t port, int event);

/* Takes what was collected, in order, into `out` (PYVMM_POST_SIZE bytes): how many. */
uint32_t pyvmm_fast_port_drain(struct pyvmm_fast_port *port, uint8_t *out);

void pyvmm_fast_port_set(struct pyvmm_fast_port *port, int posts_writes, int answers_reads, int answer);

#endif
