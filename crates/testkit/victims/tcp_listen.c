// variants: full
/* Listening TCP sockets, IPv4 and IPv6: addresses, options, backlog, two with SO_REUSEPORT, one shared with a child; they
 * accept after restore. In the full variant more options. */
#include "inet.h"
#include "talk.h"

enum { FOUR, SIX, REUSE_A, REUSE_B, COUNT };
static int fds[COUNT];
static uint16_t ports[COUNT];
static pid_t child;
static const struct option options[] = {
    {SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR"}, {SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT"},
    {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"}, {SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF"},
    {SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF"},       {IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"},
    {IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"}, {IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"},
    {IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"},
};
static const struct option more_options[] = {
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"}, {IPPROTO_TCP, TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"},
    {IPPROTO_TCP, TCP_FASTOPEN, "TCP_FASTOPEN"}, {SOL_SOCKET, SO_PRIORITY, "SO_PRIORITY"},
    {SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT"}, {SOL_SOCKET, SO_MARK, "SO_MARK"},
};
enum { OPTIONS = sizeof options / sizeof *options, MORE = sizeof more_options / sizeof *more_options };
static int before[COUNT][OPTIONS], before_more[COUNT][MORE], flags[COUNT];

static void setup(void) {
    talk_init();
    int family[COUNT] = {AF_INET, AF_INET6, AF_INET, AF_INET};
    for (int i = 0; i < COUNT; i++) {
        int type = SOCK_STREAM | (i == SIX ? SOCK_CLOEXEC : 0) | (i == REUSE_A ? SOCK_NONBLOCK : 0);
        if (i >= REUSE_A) {
            fds[i] = (int)MUST(socket(AF_INET, type, 0));
            inet_set(fds[i], SOL_SOCKET, SO_REUSEPORT, 1);
            union address address;
            socklen_t length = inet_loopback(&address, AF_INET, i == REUSE_B ? ports[REUSE_A] : 0);
            MUST(bind(fds[i], &address.any, length));
        } else {
            fds[i] = inet_bound(family[i], type, 0);
        }
        ports[i] = inet_port(fds[i]);
    }
    inet_set(fds[FOUR], SOL_SOCKET, SO_REUSEADDR, 1);
    inet_set(fds[FOUR], SOL_SOCKET, SO_KEEPALIVE, 1);
    inet_set(fds[FOUR], SOL_SOCKET, SO_RCVBUF, 50000);
    inet_set(fds[FOUR], SOL_SOCKET, SO_SNDBUF, 60000);
    inet_set(fds[FOUR], IPPROTO_TCP, TCP_NODELAY, 1);
    inet_set(fds[FOUR], IPPROTO_TCP, TCP_KEEPIDLE, 333);
    inet_set(fds[FOUR], IPPROTO_TCP, TCP_KEEPINTVL, 22);
    inet_set(fds[FOUR], IPPROTO_TCP, TCP_KEEPCNT, 5);
    if (FULL) {
        inet_set(fds[SIX], IPPROTO_TCP, TCP_DEFER_ACCEPT, 7);
        inet_set(fds[SIX], IPPROTO_TCP, TCP_USER_TIMEOUT, 12345);
        inet_set(fds[SIX], IPPROTO_TCP, TCP_FASTOPEN, 9);
        inet_set(fds[FOUR], SOL_SOCKET, SO_PRIORITY, 3);
        inet_set(fds[FOUR], SOL_SOCKET, SO_RCVLOWAT, 2);
        inet_set(fds[FOUR], SOL_SOCKET, SO_MARK, 77);
    }
    static const int backlog[COUNT] = {3, 128, 16, 17};
    for (int i = 0; i < COUNT; i++)
        MUST(listen(fds[i], backlog[i]));
    for (int i = 0; i < COUNT; i++) {
        flags[i] = (int)MUST(fcntl(fds[i], F_GETFL));
        for (int o = 0; o < OPTIONS; o++)
            before[i][o] = inet_option(fds[i], options[o].level, options[o].which);
        for (int o = 0; FULL && o < MORE; o++)
            before_more[i][o] = inet_option(fds[i], more_options[o].level, more_options[o].which);
    }
    child = (pid_t)MUST(fork());
    if (child == 0) {
        atomic_store(&talk->up, 1);
        talk_wait(1);
        int got = (int)MUST(accept(fds[FOUR], NULL, NULL));
        EXPECT_EQ("child: send", send(got, "child", 5, 0), 5);
        _exit(0);
    }
    await_flag("child", &talk->up, 1);
}

static int connected(int i) {
    int family = i == SIX ? AF_INET6 : AF_INET;
    union address address;
    socklen_t length = inet_loopback(&address, family, ports[i]);
    int fd = (int)MUST(socket(family, SOCK_STREAM, 0));
    MUST(connect(fd, &address.any, length));
    return fd;
}

static void check(void) {
    char bytes[16];
    for (int i = 0; i < COUNT; i++) {
        char text[64];
        EXPECT_EQ("port", inet_port(fds[i]), ports[i]);
        EXPECT_EQ("listening", inet_option(fds[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
        EXPECT_EQ("flags", MUST(fcntl(fds[i], F_GETFL)), flags[i]);
        EXPECT_EQ("descriptor flags", MUST(fcntl(fds[i], F_GETFD)), i == SIX ? FD_CLOEXEC : 0);
        for (int o = 0; o < OPTIONS; o++) {
            snprintf(text, sizeof text, "socket %d: %s", i, options[o].name);
            EXPECT_EQ(text, inet_option(fds[i], options[o].level, options[o].which), before[i][o]);
        }
        for (int o = 0; FULL && o < MORE; o++) {
            snprintf(text, sizeof text, "socket %d: %s", i, more_options[o].name);
            EXPECT_EQ(text, inet_option(fds[i], more_options[o].level, more_options[o].which), before_more[i][o]);
        }
        struct tcp_info info;
        socklen_t length = sizeof info;
        MUST(getsockopt(fds[i], IPPROTO_TCP, TCP_INFO, &info, &length));
        static const unsigned backlog[COUNT] = {3, 128, 16, 17};
        EXPECT_EQ("backlog", info.tcpi_sacked, backlog[i]);
    }
    EXPECT_EQ("IPV6_V6ONLY", inet_option(fds[SIX], IPPROTO_IPV6, IPV6_V6ONLY), 1);
    if (!FULL) { /* TCP_DEFER_ACCEPT would make this wait */
        int to = connected(SIX);
        int from = (int)MUST(accept(fds[SIX], NULL, NULL));
        EXPECT_EQ("send", send(to, "six", 3, 0), 3);
        EXPECT_EQ("recv", recv(from, bytes, 16, 0), 3);
        close(to), close(from);
    }
    int reused = connected(REUSE_A);
    int got = -1;
    for (int i = 0; i < 1000 && got < 0; i++) {
        got = accept4(fds[REUSE_A], NULL, NULL, 0);
        if (got < 0) {
            MUST(fcntl(fds[REUSE_B], F_SETFL, O_NONBLOCK));
            got = accept(fds[REUSE_B], NULL, NULL);
        }
        if (got < 0)
            sleep_ns(1000000);
    }
    EXPECT(got >= 0, "neither of the two on one port accepts");
    close(got), close(reused);
    int to = connected(FOUR);
    atomic_store(&talk->stage, 1);
    EXPECT_EQ("recv from the child", recv(to, bytes, 16, 0), 5);
    reap_ok("child", child);
}

static void harm(int n) {
    switch (n) {
    case 0: inet_set(fds[FOUR], SOL_SOCKET, SO_REUSEADDR, 0); break;
    case 1: MUST(listen(fds[SIX], 64)); break;
    case 2: inet_set(fds[FOUR], IPPROTO_TCP, TCP_KEEPIDLE, 100); break;
    case 3: { int fd = inet_bound(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); MUST(listen(fd, 16)); dup2(fd, fds[REUSE_A]); close(fd); } break;
    case 4: fcntl(fds[SIX], F_SETFD, 0); break;
    case 5: inet_set(fds[FOUR], SOL_SOCKET, SO_MARK, 1); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 6 : 5)
