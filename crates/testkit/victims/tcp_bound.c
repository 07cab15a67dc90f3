/* TCP sockets that do not listen and are not connected: bound with IPv4 and IPv6, and one as it was made. */
#include "inet.h"

static int bound, fresh, bound_six;
static uint16_t port, port_six;

static void setup(void) {
    bound = inet_bound(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    inet_set(bound, SOL_SOCKET, SO_REUSEADDR, 1);
    port = inet_port(bound);
    bound_six = inet_bound(AF_INET6, SOCK_STREAM, 0);
    port_six = inet_port(bound_six);
    fresh = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    inet_set(fresh, IPPROTO_TCP, TCP_NODELAY, 1);
}

static void check(void) {
    EXPECT_EQ("port", inet_port(bound), port);
    EXPECT_EQ("IPv6 port", inet_port(bound_six), port_six);
    EXPECT_EQ("port of the fresh one", inet_port(fresh), 0);
    EXPECT_EQ("SO_REUSEADDR", inet_option(bound, SOL_SOCKET, SO_REUSEADDR), 1);
    EXPECT_EQ("TCP_NODELAY", inet_option(fresh, IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ("listening", inet_option(bound, SOL_SOCKET, SO_ACCEPTCONN), 0);
    EXPECT_EQ("descriptor flags", MUST(fcntl(fresh, F_GETFD)), FD_CLOEXEC);
    EXPECT(fcntl(bound, F_GETFL) & O_NONBLOCK, "the bound one blocks");
    MUST(listen(bound, 5));
    union address address;
    socklen_t length = inet_loopback(&address, AF_INET, port);
    MUST(connect(fresh, &address.any, length));
    int from = -1;
    for (int i = 0; i < 1000 && from < 0; i++, sleep_ns(1000000))
        from = accept(bound, NULL, NULL);
    EXPECT(from >= 0, "accept: %s", strerror(errno));
    char byte;
    EXPECT_EQ("send", send(fresh, "x", 1, 0), 1);
    EXPECT_EQ("recv", recv(from, &byte, 1, 0), 1);
}

static void harm(int n) {
    if (n == 0)
        MUST(listen(bound, 5));
    if (n == 1) {
        int fd = inet_bound(AF_INET6, SOCK_STREAM, 0);
        dup2(fd, bound_six);
        close(fd);
    }
    if (n == 2)
        inet_set(fresh, IPPROTO_TCP, TCP_NODELAY, 0);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
