/*
 * Sends junk: datagrams nobody asked for, so many a second, for so many seconds.
 *
 *     junk_sender PORT RATE SECONDS
 *
 * They go from 127.200.0.1 to 127.0.0.1, a millisecond's worth at a time. It prints a line when it starts, and in the
 * end, as JSON, when it started and ended (CLOCK_MONOTONIC) and how many it sent. It ends early when its standard
 * input does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 256, PAYLOAD = 32, TICK_NS = 1000000 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static int connected_socket(int port) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr = {inet_addr("127.200.0.1")}};
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || bind(sock, (struct sockaddr *)&from, sizeof from) < 0 ||
        connect(sock, (struct sockaddr *)&to, sizeof to) < 0) {
        perror("junk_sender");
        exit(1);
    }
    return sock;
}

static int is_wanted(void) {
    struct pollfd input = {STDIN_FILENO, POLLIN, 0};
    return poll(&input, 1, 0) == 0;
}

int main(int argc, char **argv) {
    static struct mmsghdr headers[BATCH];
    static char payload[PAYLOAD];
    struct iovec vector = {payload, PAYLOAD};
    if (argc != 4) {
        fprintf(stderr, "usage: %s PORT RATE SECONDS\n", argv[0]);
        return 2;
    }
    int sock = connected_socket(atoi(argv[1]));
    double rate = atof(argv[2]), length = atof(argv[3]), started = now();
    long long sent = 0;
    memset(payload, 0xff, sizeof payload);
    for (int i = 0; i < BATCH; i++)
        headers[i].msg_hdr = (struct msghdr){.msg_iov = &vector, .msg_iovlen = 1};
    puts("started");
    fflush(stdout);
    while (now() - started < length && is_wanted()) {
        long long due = (now() - started) * rate - sent;
        while (due > 0) {
            int done = sendmmsg(sock, headers, due < BATCH ? due : BATCH, 0);
            if (done > 0) {
                sent += done;
                due -= done;
            } else if (errno != EINTR && errno != ECONNREFUSED) {
                break;
            }
        }
        nanosleep(&(struct timespec){0, TICK_NS}, NULL);
    }
    printf("{\"started\": %.6f, \"ended\": %.6f, \"sent\": %lld}\n", started, now(), sent);
    return 0;
}
