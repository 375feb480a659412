/* A disk that is kept busy: also as the load beside another test. */
#pragma once

#include "virtio.h"

struct block_load {
    struct device device;
    struct queue queue;
    struct block_request *requests;
    uint64_t sectors;  /* of the disk */
    uint32_t size;     /* bytes of a request */
    bool sequential;
    uint64_t next;
    uint64_t random;
    bool timed;
    uint64_t done;
};

void block_start(struct block_load *load, const char *operation, uint32_t size, unsigned depth);
/* Takes what is done and, unless told to leave it, makes a new request of each. */
unsigned block_turn(struct block_load *load, bool renew);
void block_stop(struct block_load *load);
