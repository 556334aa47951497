/*
 * The limit: what asking costs in C, with sendmmsg and recvmmsg and hardly any bookkeeping.
 *
 *     c_client PORT PEERS IN_FLIGHT WARM_UP SECONDS
 *
 * It does the work that `bench_work.py` describes, and prints the same line of JSON. A window of IN_FLIGHT exchanges
 * slides over the peers, in batches as large as the window allows. Each reply is checked: its source, its number and
 * its filler must fit together. There is no table of what is pending, no deadline for each exchange and no task that
 * waits: a client that is of use to anybody does more.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256, PAYLOAD = 32, NUMBER = 8, BUFFER = 4 << 20, PATIENCE_MS = 5000 };
static const uint32_t FIRST_PEER = 0x7f010001; /* 127.1.0.1 */

struct span {
    uint64_t asked, right, wrong, lost;
    double wall, cpu;
};

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static struct sockaddr_in out_names[BATCH], in_names[BATCH];
static unsigned char out_payloads[BATCH][PAYLOAD], in_payloads[BATCH][PAYLOAD + 1];
static unsigned char filler[PAYLOAD - NUMBER];

static int sock;
static uint16_t port;
static uint64_t peers, in_flight;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

/* The most memory it ever had, in KiB. getrusage() would tell that of whoever started it, if that is more. */
static long max_rss(void) {
    char line[256];
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (sscanf(line, "VmHWM: %ld", &kib) == 1)
            break;
    if (status)
        fclose(status);
    return kib;
}

static void prepare(uint16_t server_port) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
    int size = BUFFER;
    port = htons(server_port);
    sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || bind(sock, (struct sockaddr *)&any, sizeof any) < 0 || fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
        fail("socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    for (int i = 0; i < (int)sizeof filler; i++)
        filler[i] = i;
    for (int i = 0; i < BATCH; i++) {
        out_names[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
        out_vectors[i] = (struct iovec){out_payloads[i], PAYLOAD};
        in_vectors[i] = (struct iovec){in_payloads[i], PAYLOAD + 1};
        out[i].msg_hdr = (struct msghdr){
            .msg_name = &out_names[i], .msg_namelen = sizeof out_names[i], .msg_iov = &out_vectors[i], .msg_iovlen = 1};
        in[i].msg_hdr = (struct msghdr){
            .msg_name = &in_names[i], .msg_namelen = sizeof in_names[i], .msg_iov = &in_vectors[i], .msg_iovlen = 1};
        memcpy(out_payloads[i] + NUMBER, filler, sizeof filler);
    }
}

static uint32_t peer_of(uint64_t number) {
    return htonl(FIRST_PEER + number % peers);
}

static int await(short event) {
    struct pollfd watched = {sock, event, 0};
    int ready = poll(&watched, 1, PATIENCE_MS);
    if (ready < 0 && errno != EINTR)
        fail("poll");
    return ready != 0;
}

static void ask(uint64_t number, int count) {
    int done = 0;
    for (int i = 0; i < count; i++) {
        uint64_t wire = htobe64(number + i);
        memcpy(out_payloads[i], &wire, NUMBER);
        out_names[i].sin_addr.s_addr = peer_of(number + i);
    }
    while (done < count) {
        int sent = sendmmsg(sock, out + done, count - done, 0);
        if (sent > 0)
            done += sent;
        else if (errno == EAGAIN)
            await(POLLOUT);
        else if (errno != EINTR)
            fail("sendmmsg");
    }
}

static int is_right(int i, uint64_t first, uint64_t end) {
    uint64_t wire, number;
    memcpy(&wire, in_payloads[i], NUMBER);
    number = be64toh(wire);
    return in[i].msg_len == PAYLOAD && number >= first && number < end && in_names[i].sin_port == port &&
           in_names[i].sin_addr.s_addr == peer_of(number) &&
           memcmp(in_payloads[i] + NUMBER, filler, sizeof filler) == 0;
}

static struct span run(uint64_t first, uint64_t count) {
    struct span span = {0};
    uint64_t received = 0;
    double wall = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    while (received < count) {
        uint64_t room = in_flight - (span.asked - received), left = count - span.asked;
        int batch = room < left ? room : left;
        if (batch > BATCH)
            batch = BATCH;
        if (batch > 0) {
            ask(first + span.asked, batch);
            span.asked += batch;
        }
        int got = recvmmsg(sock, in, BATCH, 0, NULL);
        if (got < 0 && errno != EAGAIN && errno != EINTR)
            fail("recvmmsg");
        if (got < 0 && !await(POLLIN))
            break;
        for (int i = 0; i < got; i++) {
            if (is_right(i, first, first + span.asked))
                span.right++;
            else
                span.wrong++;
        }
        received += got > 0 ? got : 0;
    }
    span.wall = seconds(CLOCK_MONOTONIC) - wall;
    span.cpu = seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    span.lost = span.asked > received ? span.asked - received : 0;
    return span;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: %s PORT PEERS IN_FLIGHT WARM_UP SECONDS\n", argv[0]);
        return 2;
    }
    uint64_t warm_up = strtoull(argv[4], NULL, 10);
    peers = strtoull(argv[2], NULL, 10);
    in_flight = strtoull(argv[3], NULL, 10);
    prepare(atoi(argv[1]));

    struct span span = run(0, warm_up);
    if (!span.lost)
        span = run(warm_up, warm_up);
    if (!span.lost) {
        uint64_t rounds = atof(argv[5]) * warm_up / span.wall / in_flight + 1;
        span = run(2 * warm_up, rounds * in_flight);
    }
    printf("{\"asked\": %llu, \"right\": %llu, \"wrong\": %llu, \"lost\": %llu, "
           "\"wall\": %.9f, \"cpu\": %.9f, \"max_rss\": %ld, \"error\": \"\"}\n",
           (unsigned long long)span.asked, (unsigned long long)span.right, (unsigned long long)span.wrong,
           (unsigned long long)span.lost, span.wall, span.cpu, max_rss());
    return 0;
}
