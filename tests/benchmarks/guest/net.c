/*
 * bench=net,send,BYTES,DEPTH,MS: keeps DEPTH frames in flight to the host, which drops them: of an unknown type up to
 * 1514 bytes, larger ones as TCP segments that the host would have to cut (TSO).
 *
 * bench=net,echo,BYTES,DEPTH,MS,FROM,TO: keeps DEPTH pings in flight, from and to these addresses, as numbers.
 */
#include "virtio.h"

#define F_CSUM (1ull << 0)
#define F_HOST_TSO4 (1ull << 11)
#define F_MRG_RXBUF (1ull << 15)
#define F_MAC (1ull << 5)

#define HDR_F_NEEDS_CSUM 1
#define HDR_GSO_TCPV4 1

#define ETHERNET_HEADER 14
#define IP_HEADER 20
#define MAX_PLAIN_FRAME 1514
#define SEGMENT 1448
#define RECEIVE_BUFFER 2048
#define LOST_MS 200

struct header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
} __attribute__((packed));

static struct device device;
static struct queue receiveq, transmitq;
static uint8_t mac[6];

static void put16(uint8_t *at, unsigned value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint64_t value)
{
    put16(at, (unsigned)(value >> 16 & 0xffff));
    put16(at + 2, (unsigned)(value & 0xffff));
}

static unsigned sum(const uint8_t *data, size_t size)
{
    unsigned total = 0;

    for (size_t i = 0; i < size; i++)
        total += i % 2 ? data[i] : (unsigned)data[i] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return total;
}

static void start(void)
{
    device_start(&device, VIRTIO_ID_NET, F_CSUM | F_HOST_TSO4 | F_MRG_RXBUF | F_MAC);
    uint64_t config = device_config64(&device, 0);
    memcpy(mac, &config, sizeof mac);
    device_queue(&device, &receiveq, 0);
    device_queue(&device, &transmitq, 1);
    device_ready(&device);
    for (uint16_t slot = 0; slot < receiveq.size; slot++) {
        uint64_t buffer = (uintptr_t)allocate(RECEIVE_BUFFER, 64);
        receiveq.descriptors[slot] = (struct descriptor){buffer, RECEIVE_BUFFER, DESC_F_WRITE, 0};
        queue_add(&receiveq, slot);
    }
    queue_kick(&receiveq);
}

static void ip_header(uint8_t *ip, size_t size, uint8_t protocol, uint64_t from, uint64_t to)
{
    memset(ip, 0, IP_HEADER);
    ip[0] = 0x45;
    put16(ip + 2, (unsigned)size);
    ip[6] = 0x40; /* do not fragment */
    ip[8] = 64;
    ip[9] = protocol;
    put32(ip + 12, from);
    put32(ip + 16, to);
    put16(ip + 10, ~sum(ip, IP_HEADER) & 0xffff);
}

/* A frame of `size` bytes behind its header: what it is depends on the test. */
static uint8_t *make_frame(const uint8_t *to_mac, unsigned size, bool echo, uint64_t from, uint64_t to)
{
    uint8_t *buffer = allocate(sizeof(struct header) + size, 64);
    struct header *header = (struct header *)buffer;
    uint8_t *frame = buffer + sizeof *header, *ip = frame + ETHERNET_HEADER, *payload = ip + IP_HEADER;

    memset(buffer, 0, sizeof *header + size);
    memcpy(frame, to_mac, 6);
    memcpy(frame + 6, mac, 6);
    if (echo) {
        put16(frame + 12, 0x0800);
        ip_header(ip, size - ETHERNET_HEADER, 1, from, to);
        payload[0] = 8; /* echo request */
        put16(payload + 4, 0x5642);
        put16(payload + 2, ~sum(payload, size - ETHERNET_HEADER - IP_HEADER) & 0xffff);
    } else if (size > MAX_PLAIN_FRAME) {
        put16(frame + 12, 0x0800);
        /* From and to networks for tests: the host has no route and nobody who answers. */
        ip_header(ip, size - ETHERNET_HEADER, 6, 0xc6120001, 0xcb007101);
        put16(payload, 1025);
        put16(payload + 2, 9);
        payload[12] = 0x50;
        payload[13] = 0x10; /* ACK */
        header->flags = HDR_F_NEEDS_CSUM;
        header->gso_type = HDR_GSO_TCPV4;
        header->hdr_len = ETHERNET_HEADER + IP_HEADER + 20;
        header->gso_size = SEGMENT;
        header->csum_start = ETHERNET_HEADER + IP_HEADER;
        header->csum_offset = 16;
    } else {
        put16(frame + 12, 0x88b5); /* for local experiments */
    }
    return buffer;
}

static bool is_reply(const uint8_t *buffer)
{
    const uint8_t *frame = buffer + sizeof(struct header);
    return frame[12] == 8 && frame[13] == 0 && frame[ETHERNET_HEADER + 9] == 1 &&
           frame[ETHERNET_HEADER + IP_HEADER] == 0;
}

/* Takes what came and makes room anew; how many replies there were. */
static unsigned receive(void)
{
    unsigned replies = 0;
    int slot;

    while ((slot = queue_take(&receiveq, NULL)) >= 0) {
        replies += is_reply((const uint8_t *)(uintptr_t)receiveq.descriptors[slot].address);
        queue_add(&receiveq, (uint16_t)slot);
    }
    queue_kick(&receiveq);
    return replies;
}

static void send(uint64_t ms, unsigned depth)
{
    uint64_t count = 0;

    for (uint16_t slot = 0; slot < depth; slot++)
        queue_add(&transmitq, slot);
    queue_kick(&transmitq);
    begin_timing();
    uint64_t begin = rdtsc(), last = begin + ms * ticks_per_ms, now;
    do {
        int slot;
        uint64_t before = count;
        while ((slot = queue_take(&transmitq, NULL)) >= 0) {
            queue_add(&transmitq, (uint16_t)slot);
            count++;
        }
        queue_kick(&transmitq);
        receive();
        if (count == before)
            relax();
        now = rdtsc();
    } while (now < last);
    end_timing(count, now - begin);
}

static void echo(uint64_t ms, unsigned depth)
{
    uint64_t count = 0, lost = 0;
    uint16_t free_slots[MAX_QUEUE_SIZE];
    unsigned free_count = depth, flying = 0;

    for (uint16_t slot = 0; slot < depth; slot++)
        free_slots[slot] = slot;
    begin_timing();
    uint64_t begin = rdtsc(), last = begin + ms * ticks_per_ms, progress = begin, now = begin;
    do {
        int slot;
        while ((slot = queue_take(&transmitq, NULL)) >= 0)
            free_slots[free_count++] = (uint16_t)slot;
        while (flying < depth && free_count) {
            queue_add(&transmitq, free_slots[--free_count]);
            flying++;
        }
        queue_kick(&transmitq);
        unsigned replies = receive();
        now = rdtsc();
        if (replies) {
            if (depth == 1)
                latency_add(now - progress);
            if (replies > flying)
                replies = flying;
            flying -= replies;
            count += replies;
            progress = now;
        } else if (now - progress > LOST_MS * ticks_per_ms) {
            lost += flying;
            flying = 0;
            progress = now;
        } else {
            relax();
        }
    } while (now < last);
    end_timing(count, now - begin);
    put_number(" lost=", lost);
}

void test_net(const char *text)
{
    static const uint8_t broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    char what[16], size[16], depth_text[16], ms[16], from[16] = "0", to[16] = "0";

    if (!next_field(&text, what, sizeof what) || !next_field(&text, size, sizeof size) ||
        !next_field(&text, depth_text, sizeof depth_text) || !next_field(&text, ms, sizeof ms))
        fail("net: fields are missing");
    next_field(&text, from, sizeof from);
    next_field(&text, to, sizeof to);
    bool echoes = same(what, "echo");
    unsigned depth = (unsigned)to_number(depth_text);
    start();
    if (depth > transmitq.size)
        fail("the queue is too short");
    for (uint16_t slot = 0; slot < depth; slot++) {
        uint32_t bytes = (uint32_t)to_number(size);
        uint8_t *frame = make_frame(broadcast, bytes, echoes, to_number(from), to_number(to));
        transmitq.descriptors[slot] =
            (struct descriptor){(uintptr_t)frame, bytes + (uint32_t)sizeof(struct header), 0, 0};
    }
    if (echoes)
        echo(to_number(ms), depth);
    else
        send(to_number(ms), depth);
    device_stop(&device);
}
