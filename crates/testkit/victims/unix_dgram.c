// variants: full
/* Unix datagram sockets with names, as logging uses them: a server with messages of named and nameless senders in its
 * queue, a client connected to it, a connection taken back; in the full variant each message keeps its sender. */
#include "unix.h"

static int server, named, nameless, free_again, abstract;

static void send_text(int fd, const char *text, const char *to) {
    struct sockaddr_un address;
    socklen_t length = 0;
    if (to)
        length = unix_address(&address, to);
    EXPECT(sendto(fd, text, strlen(text), MSG_DONTWAIT, to ? (struct sockaddr *)&address : NULL, length) == (ssize_t)strlen(text),
           "send of %s: %s", text, strerror(errno));
}

static void expect_from(int fd, const char *text, const char *sender) {
    char bytes[64];
    struct sockaddr_un from, wanted;
    socklen_t length = sizeof from;
    memset(&from, 0, sizeof from);
    ssize_t n = recvfrom(fd, bytes, sizeof bytes, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
    EXPECT(n == (ssize_t)strlen(text), "datagram %s: %zd %s", text, n, n < 0 ? strerror(errno) : "bytes");
    EXPECT_MEM("datagram", bytes, text, strlen(text));
    if (!sender) {
        EXPECT(length <= offsetof(struct sockaddr_un, sun_path), "datagram %s has a sender: %.20s", text, from.sun_path);
        return;
    }
    socklen_t wanted_length = unix_address(&wanted, sender);
    EXPECT_EQ("length of the sender's name", length, wanted_length);
    EXPECT_MEM("sender's name", from.sun_path, wanted.sun_path, length - offsetof(struct sockaddr_un, sun_path));
}

static void expect_text(int fd, const char *text) {
    char bytes[64];
    EXPECT_EQ("datagram's length", recv(fd, bytes, sizeof bytes, MSG_DONTWAIT), strlen(text));
    EXPECT_MEM("datagram", bytes, text, strlen(text));
}

static void setup(void) {
    server = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    unix_bind(server, "log");
    abstract = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    unix_bind(abstract, "@log");
    named = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    unix_bind(named, "sender");
    unix_connect(named, "log");
    nameless = (int)MUST(socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0));
    unix_connect(nameless, "log");
    free_again = (int)MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    unix_connect(free_again, "log");
    struct sockaddr none = {.sa_family = AF_UNSPEC};
    MUST(connect(free_again, &none, sizeof none));
    send_text(named, "first", NULL);
    send_text(nameless, "second", NULL);
    send_text(named, "third", NULL);
    send_text(free_again, "to abstract", "@log");
}

static void check(void) {
    char byte;
    unix_expect_name("server's name", server, "log", false);
    unix_expect_name("abstract name", abstract, "@log", false);
    unix_expect_name("sender's own name", named, "sender", false);
    unix_expect_name("sender's peer", named, "log", true);
    unix_expect_name("nameless one's peer", nameless, "log", true);
    struct sockaddr_un peer;
    socklen_t length = sizeof peer;
    EXPECT_ERRNO(getpeername(free_again, (struct sockaddr *)&peer, &length), ENOTCONN);
    int offset = 0;
    length = sizeof offset;
    MUST(getsockopt(server, SOL_SOCKET, SO_PEEK_OFF, &offset, &length));
    EXPECT_EQ("SO_PEEK_OFF", offset, -1);
    expect_from(server, "first", "sender");
    if (FULL) /* criu sends what waited from whichever socket is at hand */
        expect_from(server, "second", NULL);
    else
        expect_text(server, "second");
    expect_from(server, "third", "sender");
    EXPECT_ERRNO(recv(server, &byte, 1, MSG_DONTWAIT), EAGAIN);
    expect_from(abstract, "to abstract", NULL);
    send_text(named, "fresh", NULL);
    send_text(nameless, "fresh too", NULL);
    expect_from(server, "fresh", "sender");
    expect_from(server, "fresh too", NULL);
    send_text(server, "answer", "sender");
    expect_from(named, "answer", "log");
    EXPECT_EQ("descriptor flags", MUST(fcntl(server, F_GETFD)), FD_CLOEXEC);
    EXPECT(fcntl(nameless, F_GETFL) & O_NONBLOCK, "the nameless one blocks");
}

static void harm(int n) {
    char byte;
    if (n == 0)
        MUST(recv(server, &byte, 1, 0));
    if (n == 1)
        unix_connect(free_again, "log");
    if (n == 2)
        unix_connect(nameless, "@log");
    if (n == 3)
        send_text(named, "more", NULL);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
