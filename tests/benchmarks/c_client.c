/*
 * The limit: what asking costs in C, with sendmmsg and recvmmsg and hardly any bookkeeping.
 *
 *     c_client PORT PEERS IN_FLIGHT WARM_UP SECONDS [ZONE]
 *
 * It does the work that `bench_work.py` describes, and prints the same line of JSON. A window of IN_FLIGHT exchanges
 * slides over the peers, in batches as large as the window allows. Each reply is checked: its source, its number and
 * its filler must fit together. There is no table of what is pending, no deadline for each exchange and no task that
 * waits: a client that is of use to anybody does more.
 *
 * With a zone it asks name servers: for the addresses of n00000000.ZONE, n00000001.ZONE and so on, with the number's
 * low bits as the id. A reply must have the id, the name, no error and an answer.
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

enum { BATCH = 256, PAYLOAD = 32, NUMBER = 8, LARGEST = 512, BUFFER = 4 << 20, PATIENCE_MS = 5000 };
enum { DIGITS_AT = 14, DIGITS = 8, LABEL = 1 + DIGITS }; /* of a question: after the header, a length and an n */
static const uint32_t FIRST_PEER = 0x7f010001; /* 127.1.0.1 */

struct span {
    uint64_t asked, right, wrong, lost;
    double wall, cpu;
};

static struct mmsghdr out[BATCH], in[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static struct sockaddr_in out_names[BATCH], in_names[BATCH];
static unsigned char out_payloads[BATCH][LARGEST], in_payloads[BATCH][LARGEST];
static unsigned char pattern[LARGEST]; /* what all payloads have in common */
static size_t length = PAYLOAD;

static int sock;
static uint16_t port;
static uint64_t peers, in_flight;
static const char *zone; /* NULL: the peers send back what they are sent */

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

static void make_question(void) {
    size_t at = DIGITS_AT - 2;
    memcpy(pattern, "\0\0\1\0\0\1\0\0\0\0\0\0", at); /* recursion desired, one question: RFC 1035, 4.1.1 */
    pattern[at++] = LABEL;
    memcpy(pattern + at, "n00000000", LABEL);
    at += LABEL;
    for (const char *label = zone; *label; label += label[0] == '.') {
        size_t size = strcspn(label, ".");
        if (size == 0 || size > 63 || at + size + 6 > sizeof pattern) {
            fprintf(stderr, "%s is no zone\n", zone);
            exit(2);
        }
        pattern[at++] = size;
        memcpy(pattern + at, label, size);
        at += size;
        label += size;
    }
    memcpy(pattern + at, "\0\0\1\0\1", 5); /* the root; type A, class IN */
    length = at + 5;
}

static void make_payload(unsigned char *payload, uint64_t number) {
    uint64_t wire = htobe64(number);
    if (!zone) {
        memcpy(payload, &wire, NUMBER);
        return;
    }
    payload[0] = number >> 8;
    payload[1] = number;
    for (int i = DIGITS - 1; i >= 0; i--, number /= 10)
        payload[DIGITS_AT + i] = '0' + number % 10;
}

static void prepare(uint16_t server_port) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
    int size = BUFFER;
    port = htons(server_port);
    sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || bind(sock, (struct sockaddr *)&any, sizeof any) < 0 || fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
        fail("socket");
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (zone)
        make_question();
    else
        for (int i = NUMBER; i < PAYLOAD; i++)
            pattern[i] = i - NUMBER;
    for (int i = 0; i < BATCH; i++) {
        out_names[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = port};
        out_vectors[i] = (struct iovec){out_payloads[i], length};
        in_vectors[i] = (struct iovec){in_payloads[i], LARGEST};
        out[i].msg_hdr = (struct msghdr){
            .msg_name = &out_names[i], .msg_namelen = sizeof out_names[i], .msg_iov = &out_vectors[i], .msg_iovlen = 1};
        in[i].msg_hdr = (struct msghdr){
            .msg_name = &in_names[i], .msg_namelen = sizeof in_names[i], .msg_iov = &in_vectors[i], .msg_iovlen = 1};
        memcpy(out_payloads[i], pattern, length);
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
        make_payload(out_payloads[i], number + i);
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

static int is_echo(const unsigned char *reply, uint64_t number) {
    (void)number;
    return memcmp(reply + NUMBER, pattern + NUMBER, PAYLOAD - NUMBER) == 0;
}

static int is_answer(const unsigned char *reply, uint64_t number) {
    size_t after = DIGITS_AT + DIGITS;
    return reply[0] == (number >> 8 & 255) && reply[1] == (number & 255) && reply[2] & 0x80 && !(reply[3] & 15) &&
           (reply[6] | reply[7]) && memcmp(reply + DIGITS_AT - 2, pattern + DIGITS_AT - 2, 2) == 0 &&
           memcmp(reply + after, pattern + after, length - after) == 0;
}

static uint64_t number_in(const unsigned char *reply) {
    uint64_t wire, number = 0;
    if (!zone) {
        memcpy(&wire, reply, NUMBER);
        return be64toh(wire);
    }
    for (int i = 0; i < DIGITS; i++)
        number = number * 10 + (reply[DIGITS_AT + i] - '0');
    return number;
}

static int is_right(int i, uint64_t first, uint64_t end) {
    const unsigned char *reply = in_payloads[i];
    if (zone ? in[i].msg_len < length : in[i].msg_len != length)
        return 0;
    uint64_t number = number_in(reply);
    return number >= first && number < end && in_names[i].sin_port == port &&
           in_names[i].sin_addr.s_addr == peer_of(number) && (zone ? is_answer : is_echo)(reply, number);
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
    if (argc != 6 && argc != 7) {
        fprintf(stderr, "usage: %s PORT PEERS IN_FLIGHT WARM_UP SECONDS [ZONE]\n", argv[0]);
        return 2;
    }
    zone = argv[6]; /* argv ends with NULL */
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
