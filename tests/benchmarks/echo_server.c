/*
 * A UDP echo server for 127.0.0.0/8 that costs next to nothing, so that a benchmark measures its clients.
 *
 * It is bound to every address of this machine and answers each datagram from the address it was sent to (IP_PKTINFO,
 * `man 7 ip`), so that one process plays as many servers as 127.0.0.0/8 has addresses. It prints its port, and ends
 * when its standard input does.
 *
 *     echo_server [awake]
 *
 * "awake": it looks for datagrams without ever sleeping. Otherwise a client that asks too seldom to keep it busy wakes
 * it with each datagram, and the kernel charges that to the client.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 256, LARGEST = 2048, CONTROL = CMSG_SPACE(sizeof(struct in_pktinfo)), BUFFER = 16 << 20 };

static struct mmsghdr headers[BATCH];
static struct iovec vectors[BATCH];
static struct sockaddr_in names[BATCH];
static char payloads[BATCH][LARGEST];
static char controls[BATCH][CONTROL] __attribute__((aligned(8)));

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int open_socket(void) {
    int sock = socket(AF_INET, SOCK_DGRAM, 0), on = 1, size = BUFFER;
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_ANY)}};
    socklen_t length = sizeof any;
    if (sock < 0)
        fail("socket");
    /* Without the privilege to force them, what net.core.rmem_max and wmem_max allow must do. */
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0)
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    if (setsockopt(sock, IPPROTO_IP, IP_PKTINFO, &on, sizeof on) < 0)
        fail("IP_PKTINFO");
    if (bind(sock, (struct sockaddr *)&any, sizeof any) < 0)
        fail("bind");
    if (getsockname(sock, (struct sockaddr *)&any, &length) < 0)
        fail("getsockname");
    if (fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
        fail("fcntl");
    printf("%d\n", ntohs(any.sin_port));
    fflush(stdout);
    return sock;
}

static void prepare(void) {
    for (int i = 0; i < BATCH; i++) {
        vectors[i] = (struct iovec){payloads[i], LARGEST};
        headers[i].msg_hdr = (struct msghdr){.msg_name = &names[i],
                                             .msg_namelen = sizeof names[i],
                                             .msg_iov = &vectors[i],
                                             .msg_iovlen = 1,
                                             .msg_control = controls[i],
                                             .msg_controllen = CONTROL};
    }
}

/* Turn what was received into answers: the payload as it came, from the address it was sent to. */
static void turn_round(int count) {
    for (int i = 0; i < count; i++) {
        struct cmsghdr *control = CMSG_FIRSTHDR(&headers[i].msg_hdr);
        struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(control);
        info->ipi_spec_dst = info->ipi_addr;
        info->ipi_ifindex = 0;
        vectors[i].iov_len = headers[i].msg_len;
        headers[i].msg_hdr.msg_controllen = CONTROL;
    }
}

static void make_ready(int count) {
    for (int i = 0; i < count; i++) {
        vectors[i].iov_len = LARGEST;
        headers[i].msg_hdr.msg_namelen = sizeof names[i];
        headers[i].msg_hdr.msg_controllen = CONTROL;
    }
}

static void send_all(int sock, int count) {
    int done = 0;
    while (done < count) {
        int sent = sendmmsg(sock, headers + done, count - done, 0);
        if (sent > 0) {
            done += sent;
        } else if (errno == EAGAIN) {
            struct pollfd writable = {sock, POLLOUT, 0};
            poll(&writable, 1, -1);
        } else if (errno != EINTR) {
            done++; /* this one can't be answered */
        }
    }
}

int main(int argc, char **argv) {
    int patience = argc > 1 && strcmp(argv[1], "awake") == 0 ? 0 : -1;
    struct pollfd watched[2] = {{open_socket(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
    int sock = watched[0].fd;
    prepare();
    for (;;) {
        int count = recvmmsg(sock, headers, BATCH, 0, NULL);
        if (count > 0) {
            turn_round(count);
            send_all(sock, count);
            make_ready(count);
        } else if (errno == EAGAIN) {
            if (poll(watched, 2, patience) < 0 && errno != EINTR)
                fail("poll");
            if (watched[1].revents) {
                char end;
                if (read(STDIN_FILENO, &end, 1) <= 0)
                    return 0;
            }
        } else if (errno != EINTR) {
            fail("recvmmsg");
        }
    }
}
