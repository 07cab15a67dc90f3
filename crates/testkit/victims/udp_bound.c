// variants: full
/* UDP sockets: bound, connected both ways, with options, IPv6, fresh; in the full variant datagrams that wait, a group
 * joined, type of service and time to live. */
#include "inet.h"

static int a, b, six, fresh, server;
static uint16_t ports[4];

static void setup(void) {
    a = inet_bound(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    b = inet_bound(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    six = inet_bound(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    server = inet_bound(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    fresh = (int)MUST(socket(AF_INET, SOCK_DGRAM, 0));
    ports[0] = inet_port(a), ports[1] = inet_port(b), ports[2] = inet_port(six), ports[3] = inet_port(server);
    union address address;
    socklen_t length = inet_loopback(&address, AF_INET, ports[1]);
    MUST(connect(a, &address.any, length));
    length = inet_loopback(&address, AF_INET, ports[0]);
    MUST(connect(b, &address.any, length));
    inet_set(fresh, SOL_SOCKET, SO_BROADCAST, 1);
    inet_set(server, SOL_SOCKET, SO_RCVBUF, 70000);
    inet_set(server, SOL_SOCKET, SO_REUSEADDR, 1);
    if (FULL) {
        EXPECT_EQ("send", send(a, "waiting", 7, 0), 7);
        inet_set(server, IPPROTO_IP, IP_TOS, 0x10);
        inet_set(server, IPPROTO_IP, IP_TTL, 33);
        struct ip_mreq group = {.imr_multiaddr.s_addr = htonl(0xe9fc0a0b), .imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
        MUST(setsockopt(server, IPPROTO_IP, IP_ADD_MEMBERSHIP, &group, sizeof group));
    }
}

static void expect_text(const char *what, int fd, const char *text, uint16_t from_port) {
    char bytes[32];
    union address from;
    socklen_t length = sizeof from;
    ssize_t n = -1;
    for (int i = 0; i < 1000 && n < 0; i++) {
        n = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, &from.any, &length);
        if (n < 0)
            sleep_ns(1000000);
    }
    EXPECT(n == (ssize_t)strlen(text), "%s: %zd %s", what, n, n < 0 ? strerror(errno) : "bytes");
    EXPECT_MEM(what, bytes, text, strlen(text));
    EXPECT_EQ("sender's port", ntohs(from.v4.sin_port), from_port);
}

static void check(void) {
    char byte;
    EXPECT_EQ("port", inet_port(a), ports[0]);
    EXPECT_EQ("port", inet_port(b), ports[1]);
    EXPECT_EQ("IPv6 port", inet_port(six), ports[2]);
    EXPECT_EQ("port", inet_port(server), ports[3]);
    EXPECT_EQ("port of the fresh one", inet_port(fresh), 0);
    union address peer;
    socklen_t length = sizeof peer;
    MUST(getpeername(a, &peer.any, &length));
    EXPECT_EQ("peer's port", ntohs(peer.v4.sin_port), ports[1]);
    EXPECT_ERRNO(getpeername(server, &peer.any, &length), ENOTCONN);
    EXPECT_EQ("SO_BROADCAST", inet_option(fresh, SOL_SOCKET, SO_BROADCAST), 1);
    EXPECT_EQ("SO_RCVBUF", inet_option(server, SOL_SOCKET, SO_RCVBUF), 140000);
    EXPECT_EQ("SO_REUSEADDR", inet_option(server, SOL_SOCKET, SO_REUSEADDR), 1);
    EXPECT_EQ("descriptor flags", MUST(fcntl(b, F_GETFD)), FD_CLOEXEC);
    EXPECT(fcntl(six, F_GETFL) & O_NONBLOCK, "the IPv6 one blocks");
    if (FULL) {
        expect_text("waiting datagram", b, "waiting", ports[0]);
        EXPECT_EQ("IP_TOS", inet_option(server, IPPROTO_IP, IP_TOS), 0x10);
        EXPECT_EQ("IP_TTL", inet_option(server, IPPROTO_IP, IP_TTL), 33);
        struct ip_mreq group = {.imr_multiaddr.s_addr = htonl(0xe9fc0a0b), .imr_interface.s_addr = htonl(INADDR_LOOPBACK)};
        MUST(setsockopt(server, IPPROTO_IP, IP_DROP_MEMBERSHIP, &group, sizeof group));
    }
    EXPECT_ERRNO(recv(b, &byte, 1, MSG_DONTWAIT), EAGAIN);
    EXPECT_EQ("send", send(a, "there", 5, 0), 5);
    expect_text("to the connected", b, "there", ports[0]);
    EXPECT_EQ("send", send(b, "back", 4, 0), 4);
    expect_text("and back", a, "back", ports[1]);
    /* not from its peer: must not arrive */
    length = inet_loopback(&peer, AF_INET, ports[0]);
    sendto(server, "stranger", 8, 0, &peer.any, length);
    EXPECT_ERRNO(recv(a, &byte, 1, MSG_DONTWAIT), EAGAIN);
    length = inet_loopback(&peer, AF_INET, ports[3]);
    EXPECT_EQ("send", sendto(fresh, "new", 3, 0, &peer.any, length), 3);
    expect_text("to the server", server, "new", inet_port(fresh));
}

static void harm(int n) {
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    switch (n) {
    case 0: MUST(connect(a, &none, sizeof none)); break;
    case 1: inet_set(fresh, SOL_SOCKET, SO_BROADCAST, 0); break;
    case 2: { int fd = inet_bound(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0); dup2(fd, server); close(fd); } break;
    case 3: inet_set(server, SOL_SOCKET, SO_RCVBUF, 50000); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
