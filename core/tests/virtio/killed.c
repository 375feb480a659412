/* Serves a ring, for a test that follows each instruction: rings in the first page of the file that is descriptor
 * argv[1], the account of requests in flight in the second. It ends when nothing is left, or after argv[2] batches,
 * with a request in flight. */
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>

#include "ring.h"

#define PAGE 4096
#define SIZE 8
#define BATCH 3

static struct pyvmm_queue queue;
static struct pyvmm_chain chains[BATCH];
static struct iovec iov[BATCH * SIZE];
static uint16_t resubmit[SIZE];

int main(int argc, char **argv)
{
    if (argc < 3)
        return 1;
    uint8_t *shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
    if (shared == MAP_FAILED)
        return 2;
    int batches = atoi(argv[2]);
    struct pyvmm_memory memory = {1, {{0, PAGE, shared}}};
    int held = -1, taken = 0;

    if (pyvmm_queue_setup(&queue, &memory, SIZE, SIZE, 0, 0x100, 0x200, 0, 0))
        return 3;
    pyvmm_queue_resume(&queue, 0);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) || raise(SIGSTOP))
        return 4;
    if (pyvmm_queue_track(&queue, (struct pyvmm_inflight *)(shared + PAGE), resubmit) < 0)
        return 5;
    /* In another order than they came, and one of each batch only with the next. */
    while (batches-- && (taken = pyvmm_queue_take(&queue, chains, BATCH, iov, NULL, BATCH * SIZE)) > 0) {
        for (int i = taken; i-- > 0;)
            if (i != 1)
                pyvmm_queue_complete(&queue, chains[i].head, 1);
        if (held >= 0)
            pyvmm_queue_complete(&queue, (uint16_t)held, 1);
        held = taken > 1 ? chains[1].head : -1;
        pyvmm_queue_publish(&queue);
    }
    if (taken == 0 && held >= 0) {
        pyvmm_queue_complete(&queue, (uint16_t)held, 1);
        pyvmm_queue_publish(&queue);
    }
    raise(SIGSTOP);
    return taken < 0 ? 6 : 0;
}
