#include "fastport.h"

#include "spin.h"

#include <string.h>
#include <sys/eventfd.h>

static int post(struct pyvmm_fast_port *port, uint8_t byte)
{
    pyvmm_lock(&port->lock);
    uint32_t length = port->length;
    if (length < PYVMM_POST_SIZE)
        port->posted[port->length++] = byte;
    pyvmm_unlock(&port->lock);
    if (length == 0)
        eventfd_write(port->event, 1);
    return length < PYVMM_POST_SIZE;
}

int pyvmm_fast_ports_handle(struct pyvmm_fast_ports *ports, struct kvm_run *run)
{
    if (run->exit_reason != KVM_EXIT_IO || run->io.size != 1 || run->io.count != 1)
        return 0;
    uint32_t count = atomic_load_explicit(&ports->count, memory_order_acquire);
    for (uint32_t i = 0; i < count; i++) {
        struct pyvmm_fast_port *port = &ports->ports[i];
        if (port->port != run->io.port)
            continue;
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_OUT)
            return atomic_load(&port->posts_writes) && post(port, *data);
        if (!atomic_load(&port->answers_reads))
            return 0;
        *data = atomic_load(&port->answer);
        return 1;
    }
    return 0;
}

struct pyvmm_fast_port *pyvmm_fast_ports_add(struct pyvmm_fast_ports *ports, uint16_t port, int event)
{
    uint32_t count = atomic_load(&ports->count);
    if (count == PYVMM_MAX_FAST_PORTS)
        return NULL;
    struct pyvmm_fast_port *new = &ports->ports[count];
    memset(new, 0, sizeof *new);
    atomic_flag_clear(&new->lock);
    new->port = port;
    new->event = event;
    atomic_store_explicit(&ports->count, count + 1, memory_order_release);
    return new;
}

uint32_t pyvmm_fast_port_drain(struct pyvmm_fast_port *port, uint8_t *out)
{
    pyvmm_lock(&port->lock);
    uint32_t length = port->length;
    memcpy(out, port->posted, length);
    port->length = 0;
    pyvmm_unlock(&port->lock);
    return length;
}

void pyvmm_fast_port_set(struct pyvmm_fast_port *port, int posts_writes, int answers_reads, int answer)
{
    atomic_store(&port->answer, (uint8_t)answer);
    atomic_store(&port->answers_reads, answers_reads != 0);
    atomic_store(&port->posts_writes, posts_writes != 0);
}
