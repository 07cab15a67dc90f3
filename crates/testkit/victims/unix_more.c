/* Unix sockets in rarer states: who is at the other end, descriptors amid a stream and in each other's queues, credentials
 * of waiting messages, ends that were reset, peers that are gone, a row of peers, connections not accepted yet, a name that
 * a client has. */
#include "talk.h"
#include "unix.h"

static int listener, server, backlog_listener, first, second, middle[2], creds[2], reset, orphan, row[3], cycle[2], holder[2],
    inner[2], peeked[2], abstract_client, abstract_server, dotted, half_gone;
static pid_t child;
static struct ucred child_peer;

static void pass(int to, const char *text, int fd) {
    char space[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec io = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    EXPECT(sendmsg(to, &message, MSG_DONTWAIT) == (ssize_t)strlen(text), "sendmsg: %s", strerror(errno));
}

/* The descriptor that comes with the next message, -1 for none. */
static int take(int from, const char *text, size_t room) {
    char got[64], space[CMSG_SPACE(sizeof(int))];
    struct iovec io = {got, room};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    ssize_t n = recvmsg(from, &message, MSG_DONTWAIT);
    EXPECT(n == (ssize_t)strlen(text), "message %s: %zd %s", text, n, n < 0 ? strerror(errno) : "bytes");
    EXPECT_MEM(text, got, text, strlen(text));
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (!head)
        return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(head), sizeof fd);
    return fd;
}

static void put(int fd, const char *text) {
    EXPECT(send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)strlen(text), "send of %s: %s", text, strerror(errno));
}

static void expect_text(const char *what, int fd, const char *text) {
    char got[64];
    ssize_t n = recv(fd, got, sizeof got, MSG_DONTWAIT);
    EXPECT(n == (ssize_t)strlen(text), "%s: %zd %s", what, n, n < 0 ? strerror(errno) : "bytes");
    EXPECT_MEM(what, got, text, strlen(text));
}

static int bound(int type, const char *name) {
    int fd = (int)MUST(socket(AF_UNIX, type, 0));
    unix_bind(fd, name);
    return fd;
}

static struct ucred peer_of(int fd) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length));
    return peer;
}

static void child_main(void) {
    int fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(setresgid(321, 321, 0));
    MUST(setresuid(123, 123, 0));
    unix_bind(fd, "@client");
    unix_connect(fd, "served");
    MUST(setresuid(0, 0, 0));
    MUST(setresgid(0, 0, 0));
    atomic_store(&talk->up, 1);
    talk_wait(1);
    char byte;
    put(fd, "by the child");
    EXPECT_EQ("child: recv", recv(fd, &byte, 1, MSG_PEEK), 1);
    expect_text("child: answer", fd, "answer");
    unix_expect_name("child: peer", fd, "served", true);
    EXPECT_EQ("child: who listens", peer_of(fd).pid, getppid());
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void setup(void) {
    int one = 1;
    talk_init();
    umask(0);
    listener = bound(SOCK_STREAM, "served");
    MUST(listen(listener, 4));
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    server = (int)MUST(accept(listener, NULL, NULL));
    await_flag("child", &talk->up, 1);
    child_peer = peer_of(server);
    EXPECT_EQ("child's user", child_peer.uid, 123);

    backlog_listener = bound(SOCK_STREAM, "queue");
    MUST(listen(backlog_listener, 4));
    first = bound(SOCK_STREAM, "first");
    unix_connect(first, "queue");
    second = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_connect(second, "queue");

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, middle));
    int file = (int)MUST(open("file", O_RDWR | O_CREAT, 0600));
    MUST(write(file, "0123456789", 10));
    MUST(lseek(file, 4, SEEK_SET));
    put(middle[0], "before ");
    pass(middle[0], "with", file);
    put(middle[0], " after");
    close(file);

    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, creds));
    MUST(setsockopt(creds[1], SOL_SOCKET, SO_PASSCRED, &one, sizeof one));
    put(creds[0], "who is it");

    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    reset = pair[0];
    put(reset, "unread");
    put(pair[1], "read");
    close(pair[1]);

    int away = bound(SOCK_DGRAM, "away");
    orphan = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    unix_connect(orphan, "away");
    close(away);
    unlink("away");
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
    half_gone = pair[0];
    put(pair[1], "one");
    put(pair[1], "two");
    close(pair[1]);

    row[2] = bound(SOCK_DGRAM, "third");
    row[1] = bound(SOCK_DGRAM, "@second");
    row[0] = bound(SOCK_DGRAM, "@first");
    unix_connect(row[0], "@second");
    put(row[0], "to the second");
    unix_connect(row[1], "third");
    put(row[1], "to the third");

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, cycle));
    pass(cycle[0], "self", cycle[1]);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, holder));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
    put(inner[0], "deep");
    pass(holder[0], "inner", inner[1]);
    close(inner[1]);

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, peeked));
    put(peeked[0], "peeked at");
    int offset = 7;
    MUST(setsockopt(peeked[1], SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset));

    int abstract = bound(SOCK_SEQPACKET, "@door");
    MUST(listen(abstract, 4));
    abstract_client = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    unix_connect(abstract_client, "@door");
    abstract_server = (int)MUST(accept(abstract, NULL, NULL));
    close(abstract);

    MUST(mkdir("sub", 0777));
    dotted = bound(SOCK_STREAM, "./sub/../dotted");
    MUST(listen(dotted, 2));
}

static void check(void) {
    char got[32];
    struct ucred now = peer_of(server);
    EXPECT_EQ("pid at the other end", now.pid, child_peer.pid);
    EXPECT_EQ("user at the other end", now.uid, child_peer.uid);
    EXPECT_EQ("group at the other end", now.gid, child_peer.gid);
    atomic_store(&talk->stage, 1);
    for (int i = 0; i < 5000 && recv(server, got, 1, MSG_PEEK | MSG_DONTWAIT) != 1; i++)
        sleep_ns(1000000);
    expect_text("from the child", server, "by the child");
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    MUST(getpeername(server, (struct sockaddr *)&name, &length));
    EXPECT(name.sun_path[0] == 0 && memcmp(name.sun_path + 1, "victim-client-", 14) == 0, "name of the child's socket");
    put(server, "answer");
    reap_ok("child", child);

    MUST(fcntl(backlog_listener, F_SETFL, O_NONBLOCK));
    put(first, "I was first");
    put(second, "I was second");
    int fd = (int)MUST(accept(backlog_listener, NULL, NULL));
    unix_expect_name("first in the backlog", fd, "first", true);
    expect_text("first in the backlog", fd, "I was first");
    EXPECT_EQ("pid of the one who connected", peer_of(fd).pid, getpid());
    close(fd);
    fd = (int)MUST(accept(backlog_listener, NULL, NULL));
    expect_text("second in the backlog", fd, "I was second");
    EXPECT_ERRNO(accept(backlog_listener, NULL, NULL), EAGAIN);

    EXPECT_EQ("descriptor too early", take(middle[1], "before ", 7), -1);
    fd = take(middle[1], "with", 4);
    EXPECT(fd >= 0, "no descriptor amid the stream");
    EXPECT_EQ("position of the passed file", MUST(lseek(fd, 0, SEEK_CUR)), 4);
    EXPECT_EQ("descriptor too late", take(middle[1], " after", 64), -1);

    char space[CMSG_SPACE(sizeof(struct ucred))];
    struct iovec io = {got, sizeof got};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    EXPECT_EQ("message with credentials", recvmsg(creds[1], &message, MSG_DONTWAIT), 9);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    EXPECT(head && head->cmsg_type == SCM_CREDENTIALS, "no credentials");
    struct ucred sender;
    memcpy(&sender, CMSG_DATA(head), sizeof sender);
    EXPECT_EQ("sender's pid", sender.pid, getpid());

    expect_text("what came before the reset", reset, "read");
    EXPECT_ERRNO(recv(reset, got, sizeof got, MSG_DONTWAIT), ECONNRESET);
    EXPECT_EQ("after the reset", recv(reset, got, 1, MSG_DONTWAIT), 0);

    unix_expect_name("peer that is gone", orphan, "away", true);
    EXPECT_ERRNO(send(orphan, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL), ECONNREFUSED);
    EXPECT_ERRNO(send(orphan, "x", 1, MSG_DONTWAIT | MSG_NOSIGNAL), ENOTCONN);
    expect_text("packet of a closed end", half_gone, "one");
    expect_text("packet of a closed end", half_gone, "two");
    EXPECT_EQ("end of the packets", recv(half_gone, got, 1, MSG_DONTWAIT), 0);

    expect_text("second in the row", row[1], "to the second");
    expect_text("third in the row", row[2], "to the third");
    unix_expect_name("second's peer", row[1], "third", true);
    unix_expect_name("first's peer", row[0], "@second", true);
    EXPECT_ERRNO(send(row[0], "x", 1, MSG_DONTWAIT), EPERM);
    put(row[1], "more");
    expect_text("third in the row", row[2], "more");

    fd = take(cycle[1], "self", 64);
    EXPECT(fd >= 0, "the socket in its own queue is lost");
    put(cycle[0], "once more");
    expect_text("the socket out of its own queue", fd, "once more");
    fd = take(holder[1], "inner", 64);
    EXPECT(fd >= 0, "the socket in a queue is lost");
    expect_text("in the queue of a socket in a queue", fd, "deep");
    put(fd, "up");
    expect_text("from a socket that was in a queue", inner[0], "up");

    EXPECT_EQ("peek", recv(peeked[1], got, sizeof got, MSG_PEEK | MSG_DONTWAIT), 2);
    EXPECT_MEM("peek", got, "at", 2);
    expect_text("all that was peeked at", peeked[1], "peeked at");

    unix_expect_name("accepted at a door that is gone", abstract_server, "@door", false);
    unix_expect_name("peer of its client", abstract_client, "@door", true);
    put(abstract_client, "knock");
    expect_text("at the door", abstract_server, "knock");

    fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_connect(fd, "dotted");
    unix_expect_name("dotted name", dotted, "./sub/../dotted", false);
}

static void harm(int n) {
    char byte;
    switch (n) {
    case 0: close((int)MUST(accept(backlog_listener, NULL, NULL))); break;
    case 1: MUST(recv(middle[1], &byte, 1, 0)); break;
    case 2: recv(reset, &byte, 1, MSG_DONTWAIT); break;
    case 3: unix_connect(row[0], "third"); break;
    case 4: MUST(recv(cycle[1], &byte, 1, 0)); break;
    case 5: { int off = -1; MUST(setsockopt(peeked[1], SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off)); } break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 6)
