// variants: full
/* Connected unix sockets without names: stream, datagram and packets with what waits in them,
 * shut down for reading or writing, the other end closed, buffer sizes, credentials and timeouts asked for, one end in a
 * child. In the full variant an empty datagram waits and an open file travels in a queue. */
#include "talk.h"
#include <sys/socket.h>
#include <sys/time.h>

enum { STREAM, DATAGRAM, PACKETS, SHUT_WRITE, SHUT_READ, CLOSED, FORKED, PASSING, COUNT };
static int ends[COUNT][2];
static pid_t child;
static const int types[COUNT] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_STREAM, SOCK_STREAM};
static unsigned char bytes[100000];
static int flags[COUNT][2], buffers[2];
static const struct timeval patience = {3, 250000};

static void send_bytes(int fd, const void *from, size_t length) {
    EXPECT(send(fd, from, length, MSG_NOSIGNAL) == (ssize_t)length, "send: %s", strerror(errno));
}

static void expect_text(const char *what, int fd, const char *text) {
    char got[128];
    ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
    EXPECT(n == (ssize_t)strlen(text), "%s: expected %zu bytes, got %zd (%s)", what, strlen(text), n, n < 0 ? strerror(errno) : "");
    EXPECT_MEM(what, got, text, strlen(text));
}

static void child_main(void) {
    for (int i = 0; i < COUNT; i++)
        for (int e = 0; e < 2; e++)
            if (ends[i][e] >= 0 && !(i == FORKED && e == 1))
                close(ends[i][e]);
    send_bytes(ends[FORKED][1], "child before;", 13);
    atomic_store(&talk->up, 1);
    talk_wait(1);
    send_bytes(ends[FORKED][1], "child after", 11);
    expect_text("child: what the parent sent", ends[FORKED][1], "parent before;parent after");
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void setup(void) {
    talk_init();
    for (int i = 0; i < COUNT; i++)
        MUST(socketpair(AF_UNIX, types[i] | (i == PACKETS ? SOCK_CLOEXEC : 0) | (i == DATAGRAM ? SOCK_NONBLOCK : 0), 0, ends[i]));
    int size = 200000, one = 1;
    MUST(setsockopt(ends[STREAM][0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    MUST(setsockopt(ends[STREAM][1], SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
    MUST(setsockopt(ends[STREAM][1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience));
    MUST(setsockopt(ends[DATAGRAM][0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    pattern_fill(bytes, 70000, 81);
    send_bytes(ends[STREAM][0], bytes, 70000);
    EXPECT_EQ("recv", recv(ends[STREAM][1], bytes, 777, 0), 777);
    send_bytes(ends[STREAM][1], "back", 4);
    send_bytes(ends[DATAGRAM][0], "one", 3);
    if (FULL)
        send_bytes(ends[DATAGRAM][0], "", 0);
    send_bytes(ends[DATAGRAM][0], "three", 5);
    send_bytes(ends[PACKETS][1], "packet", 6);
    send_bytes(ends[PACKETS][1], "another", 7);
    send_bytes(ends[SHUT_WRITE][0], "last", 4);
    MUST(shutdown(ends[SHUT_WRITE][0], SHUT_WR));
    MUST(shutdown(ends[SHUT_READ][0], SHUT_RD));
    send_bytes(ends[CLOSED][0], "farewell", 8);
    close(ends[CLOSED][0]);
    ends[CLOSED][0] = -1;
    send_bytes(ends[FORKED][0], "parent before;", 14);
    if (FULL) {
        int fd = (int)MUST(open("passed", O_RDWR | O_CREAT, 0600));
        MUST(write(fd, "content", 7));
        MUST(lseek(fd, 3, SEEK_SET));
        char byte = 'f', space[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec io = {&byte, 1};
        struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(head), &fd, sizeof fd);
        MUST(sendmsg(ends[PASSING][0], &message, 0));
        close(fd);
    }
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    close(ends[FORKED][1]);
    ends[FORKED][1] = -1;
    await_flag("child", &talk->up, 1);
    for (int i = 0; i < COUNT; i++)
        for (int e = 0; e < 2; e++)
            if (ends[i][e] >= 0)
                flags[i][e] = (int)MUST(fcntl(ends[i][e], F_GETFL));
    socklen_t length = sizeof(int);
    MUST(getsockopt(ends[STREAM][0], SOL_SOCKET, SO_SNDBUF, &buffers[0], &length));
    MUST(getsockopt(ends[STREAM][1], SOL_SOCKET, SO_RCVBUF, &buffers[1], &length));
}

static int option(int fd, int which) {
    int value = -1;
    socklen_t length = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, which, &value, &length));
    return value;
}

static void check(void) {
    char got[128];
    for (int i = 0; i < COUNT; i++)
        for (int e = 0; e < 2; e++) {
            if (ends[i][e] < 0)
                continue;
            char text[64];
            snprintf(text, sizeof text, "socket %d.%d: flags", i, e);
            EXPECT_EQ(text, MUST(fcntl(ends[i][e], F_GETFL)), flags[i][e]);
            EXPECT_EQ("descriptor flags", MUST(fcntl(ends[i][e], F_GETFD)), i == PACKETS ? FD_CLOEXEC : 0);
            EXPECT_EQ("type", option(ends[i][e], SO_TYPE), types[i]);
            EXPECT_EQ("domain", option(ends[i][e], SO_DOMAIN), AF_UNIX);
        }
    EXPECT_EQ("send buffer", option(ends[STREAM][0], SO_SNDBUF), buffers[0]);
    EXPECT_EQ("receive buffer", option(ends[STREAM][1], SO_RCVBUF), buffers[1]);
    EXPECT_EQ("SO_PASSCRED", option(ends[DATAGRAM][0], SO_PASSCRED), 1);
    EXPECT_EQ("SO_PASSCRED of the other end", option(ends[DATAGRAM][1], SO_PASSCRED), 0);
    struct timeval limit;
    socklen_t length = sizeof limit;
    MUST(getsockopt(ends[STREAM][1], SOL_SOCKET, SO_RCVTIMEO, &limit, &length));
    EXPECT(llabs(limit.tv_sec * 1000000LL + limit.tv_usec - 3250000) <= 10000, "receive timeout: %ld.%06ld", (long)limit.tv_sec, (long)limit.tv_usec);
    struct ucred peer;
    length = sizeof peer;
    MUST(getsockopt(ends[STREAM][0], SOL_SOCKET, SO_PEERCRED, &peer, &length));
    if (FULL)
        EXPECT_EQ("peer's pid", peer.pid, getpid());

    size_t have = 0;
    while (have < 70000 - 777) {
        ssize_t n = recv(ends[STREAM][1], bytes + have, sizeof bytes - have, MSG_DONTWAIT);
        EXPECT(n > 0, "stream: %zu bytes, expected %d", have, 70000 - 777);
        have += (size_t)n;
    }
    EXPECT_EQ("bytes in the stream", have, 70000 - 777);
    for (size_t i = 0; i < have; i++)
        EXPECT(bytes[i] == pattern_byte(81, i + 777), "stream: byte %zu differs", i);
    expect_text("the other direction", ends[STREAM][0], "back");
    EXPECT_ERRNO(recv(ends[STREAM][0], got, 1, MSG_DONTWAIT), EAGAIN);

    expect_text("first datagram", ends[DATAGRAM][1], "one");
    if (FULL)
        expect_text("empty datagram", ends[DATAGRAM][1], "");
    expect_text("third datagram", ends[DATAGRAM][1], "three");
    EXPECT_ERRNO(recv(ends[DATAGRAM][1], got, 1, 0), EAGAIN);
    send_bytes(ends[DATAGRAM][1], "to credentials", 14);
    expect_text("datagram the other way", ends[DATAGRAM][0], "to credentials");
    expect_text("first packet", ends[PACKETS][0], "packet");
    expect_text("second packet", ends[PACKETS][0], "another");

    expect_text("before the shutdown", ends[SHUT_WRITE][1], "last");
    EXPECT_EQ("read after the shutdown", recv(ends[SHUT_WRITE][1], got, 1, MSG_DONTWAIT), 0);
    EXPECT_ERRNO(send(ends[SHUT_WRITE][0], "x", 1, MSG_NOSIGNAL), EPIPE);
    send_bytes(ends[SHUT_WRITE][1], "still", 5);
    expect_text("the open direction", ends[SHUT_WRITE][0], "still");
    EXPECT_EQ("read of the end shut for reading", recv(ends[SHUT_READ][0], got, 1, MSG_DONTWAIT), 0);
    EXPECT_ERRNO(send(ends[SHUT_READ][1], "x", 1, MSG_NOSIGNAL), EPIPE);
    expect_text("from the closed end", ends[CLOSED][1], "farewell");
    EXPECT_EQ("read after the other end is closed", recv(ends[CLOSED][1], got, 1, MSG_DONTWAIT), 0);
    EXPECT_ERRNO(send(ends[CLOSED][1], "x", 1, MSG_NOSIGNAL), EPIPE);
    if (FULL) {
        char byte, space[CMSG_SPACE(sizeof(int))];
        struct iovec io = {&byte, 1};
        struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        EXPECT_EQ("message with a file", recvmsg(ends[PASSING][1], &message, MSG_DONTWAIT), 1);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        EXPECT(head && head->cmsg_type == SCM_RIGHTS, "the message has lost its file");
        int fd;
        memcpy(&fd, CMSG_DATA(head), sizeof fd);
        EXPECT_EQ("read of the passed file", read(fd, got, 10), 4);
        EXPECT_MEM("passed file", got, "tent", 4);
    }
    send_bytes(ends[FORKED][0], "parent after", 12);
    atomic_store(&talk->stage, 1);
    await_flag("child", &talk->done, 1);
    expect_text("what the child sent", ends[FORKED][0], "child before;child after");
    reap_ok("child", child);
    EXPECT_EQ("read after the child is gone", recv(ends[FORKED][0], got, 1, MSG_DONTWAIT), 0);
}

static void harm(int n) {
    int off = 0, size = 100000;
    switch (n) {
    case 0: MUST(recv(ends[STREAM][1], bytes, 1, 0)); break;
    case 1: MUST(recv(ends[DATAGRAM][1], bytes, 10, 0)); break;
    case 2: MUST(recv(ends[PACKETS][0], bytes, 3, 0)); break;
    case 3: MUST(shutdown(ends[SHUT_WRITE][1], SHUT_WR)); break;
    case 4: MUST(setsockopt(ends[DATAGRAM][0], SOL_SOCKET, SO_PASSCRED, &off, sizeof off)); break;
    case 5: MUST(setsockopt(ends[STREAM][0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size)); break;
    case 6: MUST(recv(ends[CLOSED][1], bytes, 1, 0)); break;
    case 7: MUST(recv(ends[FORKED][0], bytes, 1, 0)); break;
    case 8: { int fd[2]; MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fd)); dup2(fd[1], ends[CLOSED][1]); close(fd[0]); close(fd[1]); } break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 9)
