// variants: full
/* Listening unix sockets with a path and an abstract name, a connection already accepted, one bound and not yet
 * listening; they go on accepting, in a child too that inherited one. In the full variant one whose path is gone. */
#include "talk.h"
#include "unix.h"

static int by_path, abstract, server, client, bound, packets, nameless = -1, nameless_client, nameless_server;
static pid_t child;
static struct stat path_stat;

static void child_main(void) {
    close(by_path);
    atomic_store(&talk->up, 1);
    talk_wait(1);
    int got = (int)MUST(accept(abstract, NULL, NULL));
    char byte = 0;
    EXPECT_EQ("child: recv", recv(got, &byte, 1, 0), 1);
    EXPECT_EQ("child: byte", byte, 'c');
    _exit(0);
}

static void setup(void) {
    talk_init();
    by_path = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    unix_bind(by_path, "socket");
    MUST(chmod("socket", 0622));
    MUST(listen(by_path, 5));
    abstract = (int)MUST(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    unix_bind(abstract, "@listening");
    MUST(listen(abstract, 100));
    packets = (int)MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    unix_bind(packets, "packets");
    MUST(listen(packets, 1));
    bound = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_bind(bound, "bound");
    client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_connect(client, "socket");
    server = (int)MUST(accept(by_path, NULL, NULL));
    EXPECT_EQ("send", send(client, "waiting", 7, 0), 7);
    MUST(stat("socket", &path_stat));
    if (FULL) {
        nameless = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        unix_bind(nameless, "removed");
        MUST(listen(nameless, 3));
        nameless_client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
        unix_connect(nameless_client, "removed");
        nameless_server = (int)MUST(accept(nameless, NULL, NULL));
        MUST(unlink("removed"));
    }
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    await_flag("child", &talk->up, 1);
}

static void exchange(const char *what, int listener, const char *name, int type) {
    int to = (int)MUST(socket(AF_UNIX, type, 0));
    unix_connect(to, name);
    int from = (int)MUST(accept(listener, NULL, NULL));
    char bytes[8];
    EXPECT_EQ(what, send(to, "hello", 5, 0), 5);
    EXPECT_EQ(what, recv(from, bytes, 8, 0), 5);
    EXPECT_MEM(what, bytes, "hello", 5);
    unix_expect_name("name of the accepted end", from, name, false);
    close(to);
    EXPECT_EQ(what, recv(from, bytes, 8, 0), 0);
    close(from);
}

static bool listening(int fd) {
    int value = -1;
    socklen_t length = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length));
    return value;
}

/* How many unaccepted connections fit: the backlog and one. */
static int room(int type, const char *name) {
    int fds[16], count = 0;
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, name);
    for (; count < 16; count++) {
        fds[count] = (int)MUST(socket(AF_UNIX, type | SOCK_NONBLOCK, 0));
        if (connect(fds[count], (struct sockaddr *)&address, length) == -1) {
            EXPECT(errno == EAGAIN, "connect: %s", strerror(errno));
            close(fds[count]);
            break;
        }
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    return count;
}

static void check(void) {
    struct stat now;
    char bytes[16];
    EXPECT(listening(by_path) && listening(abstract) && listening(packets), "a socket does not listen any more");
    EXPECT(!listening(bound), "a socket listens that did not");
    EXPECT_EQ("descriptor flags", MUST(fcntl(by_path, F_GETFD)), FD_CLOEXEC);
    EXPECT(fcntl(abstract, F_GETFL) & O_NONBLOCK, "the abstract one blocks");
    unix_expect_name("path", by_path, "socket", false);
    unix_expect_name("abstract name", abstract, "@listening", false);
    unix_expect_name("name of the bound one", bound, "bound", false);
    if (FULL) { /* criu makes a nameless pair of them */
        unix_expect_name("name of the accepted one", server, "socket", false);
        unix_expect_name("peer of the client", client, "socket", true);
    }
    MUST(stat("socket", &now));
    EXPECT(S_ISSOCK(now.st_mode), "the path is no socket");
    EXPECT_EQ("mode of the path", now.st_mode, path_stat.st_mode);
    EXPECT_ERRNO(accept(abstract, NULL, NULL), EAGAIN);
    EXPECT_EQ("recv of what waited", recv(server, bytes, 16, 0), 7);
    EXPECT_MEM("what waited", bytes, "waiting", 7);
    EXPECT_EQ("send", send(server, "answer", 6, 0), 6);
    EXPECT_EQ("recv", recv(client, bytes, 16, 0), 6);
    exchange("by path", by_path, "socket", SOCK_STREAM);
    exchange("by abstract name", abstract, "@listening", SOCK_STREAM);
    exchange("packets", packets, "packets", SOCK_SEQPACKET);
    MUST(listen(bound, 5));
    exchange("bound one, listening now", bound, "bound", SOCK_STREAM);
    EXPECT_EQ("room in the backlog", room(SOCK_SEQPACKET, "packets"), 2);
    /* the child's copy of the listener is the same one */
    MUST(fcntl(abstract, F_SETFL, 0));
    int to = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_connect(to, "@listening");
    EXPECT_EQ("send", send(to, "c", 1, 0), 1);
    atomic_store(&talk->stage, 1);
    reap_ok("child", child);
    if (FULL) {
        EXPECT(listening(nameless), "the one without a path does not listen any more");
        unix_expect_name("path that is gone", nameless, "removed", false);
        EXPECT_ERRNO(access("removed", F_OK), ENOENT);
        EXPECT_EQ("send", send(nameless_client, "x", 1, 0), 1);
        EXPECT_EQ("recv", recv(nameless_server, bytes, 16, 0), 1);
    }
}

static void harm(int n) {
    char byte;
    switch (n) {
    case 0: unlink("socket"); break;
    case 1: MUST(listen(bound, 1)); break;
    case 2: MUST(listen(packets, 3)); break;
    case 3: MUST(recv(server, &byte, 1, 0)); break;
    case 4: fcntl(abstract, F_SETFL, 0); fcntl(by_path, F_SETFD, 0); break;
    case 5: chmod("socket", 0700); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 6)
