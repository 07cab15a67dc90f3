/* Both ends of an established TCP connection on loopback. Carried whole, what was sent arrives and it goes on; closed at
 * restore (what a container's restore does by default), both owners read the end of the stream or a reset, never bytes
 * that were not sent, and the descriptors stay sockets with their flags. The listener accepts in both cases. */
#include "inet.h"
#include <poll.h>

static int listener, client, server, spare;
static uint16_t port;

static int connect_to(void) {
    union address address;
    socklen_t length = inet_loopback(&address, AF_INET, port);
    int fd = (int)MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, &address.any, length));
    return fd;
}

static void setup(void) {
    signal(SIGPIPE, SIG_IGN);
    listener = inet_bound(AF_INET, SOCK_STREAM, 0);
    port = inet_port(listener);
    MUST(listen(listener, 5));
    client = connect_to();
    server = (int)MUST(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
    inet_set(server, IPPROTO_TCP, TCP_NODELAY, 1);
    EXPECT_EQ("send", send(client, "question", 8, 0), 8);
    EXPECT_EQ("send", send(server, "greeting", 8, 0), 8);
    spare = (int)MUST(dup(client));
    struct pollfd both[2] = {{server, POLLIN, 0}, {client, POLLIN, 0}};
    EXPECT(poll(both, 2, 5000) > 0, "nothing arrives");
}

/* 1: alive with its bytes; 0: closed. */
static int state_of(const char *who, int fd, const char *text) {
    char bytes[64];
    size_t have = 0;
    for (;;) {
        struct pollfd ready = {fd, POLLIN, 0};
        EXPECT(poll(&ready, 1, 5000) == 1, "%s: neither bytes nor an end", who);
        ssize_t n = recv(fd, bytes + have, strlen(text) - have, 0);
        if (n == 0 || (n == -1 && (errno == ECONNRESET || errno == ENOTCONN || errno == ETIMEDOUT)))
            return 0;
        EXPECT(n > 0, "%s: recv: %s", who, strerror(errno));
        EXPECT_MEM(who, bytes + have, text + have, n);
        have += (size_t)n;
        if (have == strlen(text))
            return 1;
    }
}

static void check(void) {
    char bytes[16];
    EXPECT_EQ("descriptor flags", MUST(fcntl(server, F_GETFD)), FD_CLOEXEC);
    EXPECT_EQ("type", inet_option(client, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    EXPECT_EQ("type of the duplicate", inet_option(spare, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    int server_alive = state_of("server", server, "question");
    int client_alive = state_of("client", client, "greeting");
    EXPECT_EQ("one end alive, the other", client_alive, server_alive);
    if (server_alive) {
        EXPECT_EQ("TCP_NODELAY", inet_option(server, IPPROTO_TCP, TCP_NODELAY), 1);
        EXPECT_EQ("send", send(spare, "more", 4, 0), 4);
        EXPECT_EQ("recv", recv(server, bytes, 16, 0), 4);
        EXPECT_EQ("send", send(server, "answer", 6, 0), 6);
        EXPECT_EQ("recv", recv(client, bytes, 16, 0), 6);
    } else {
        EXPECT_EQ("recv again", recv(server, bytes, 1, MSG_DONTWAIT) > 0, 0);
        EXPECT_EQ("send on the closed one", send(server, "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT), -1);
    }
    int fresh = connect_to();
    int from = (int)MUST(accept(listener, NULL, NULL));
    EXPECT_EQ("send", send(fresh, "fresh", 5, 0), 5);
    EXPECT_EQ("recv", recv(from, bytes, 16, 0), 5);
}

static void harm(int n) {
    char byte;
    if (n == 0)
        MUST(recv(server, &byte, 1, 0));
    if (n == 1)
        MUST(send(client, "x", 1, 0)), MUST(recv(server, &byte, 1, 0));
    if (n == 2)
        dup2(0, client);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
