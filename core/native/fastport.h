/* I/O ports that a vCPU's thread serves without Python: it collects the bytes written and reads back a fixed answer.
 *
 * A kernel's serial console makes two accesses a character. For as long as the device allows it, the vCPU's thread
 * serves them here, without taking the GIL.
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
    _Atomic uint8_t posts_writes; /* bytes written are collected */
    _Atomic uint8_t answers_reads; /* reads give `answer` */
    _Atomic uint8_t answer;
    int event; /* an eventfd, signalled when the first byte is collected */
    atomic_flag lock;
    uint32_t length;
    uint8_t posted[PYVMM_POST_SIZE];
};

struct pyvmm_fast_ports {
    _Atomic uint32_t count;
    struct pyvmm_fast_port ports[PYVMM_MAX_FAST_PORTS];
};

/* Handles a vCPU's exit if it is an access to a fast port that allows it. 1 when it did. */
int pyvmm_fast_ports_handle(struct pyvmm_fast_ports *ports, struct kvm_run *run);

/* A new fast port, which serves nothing yet; NULL when there are PYVMM_MAX_FAST_PORTS. */
struct pyvmm_fast_port *pyvmm_fast_ports_add(struct pyvmm_fast_ports *ports, uint16_t port, int event);

/* Moves the bytes that were collected, in order, to `out` (PYVMM_POST_SIZE bytes), and returns their number. */
uint32_t pyvmm_fast_port_drain(struct pyvmm_fast_port *port, uint8_t *out);

/* Sets what the port serves from now on. */
void pyvmm_fast_port_set(struct pyvmm_fast_port *port, int posts_writes, int answers_reads, int answer);

#endif
