/* A listening unix socket with a connection that nobody has accepted yet, and bytes in it. */
#include "unix.h"

static int listener, client;

static void setup(void) {
    listener = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_bind(listener, "socket");
    MUST(listen(listener, 5));
    client = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    unix_connect(client, "socket");
    EXPECT_EQ("send", send(client, "early", 5, 0), 5);
}

static void check(void) {
    char bytes[16];
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
    int server = (int)MUST(accept(listener, NULL, NULL));
    EXPECT_EQ("recv", recv(server, bytes, 16, MSG_DONTWAIT), 5);
    EXPECT_MEM("bytes sent early", bytes, "early", 5);
    EXPECT_EQ("send", send(server, "answer", 6, 0), 6);
    EXPECT_EQ("recv", recv(client, bytes, 16, MSG_DONTWAIT), 6);
    EXPECT_ERRNO(accept(listener, NULL, NULL), EAGAIN);
}

static void harm(int n) {
    if (n == 0)
        close((int)MUST(accept(listener, NULL, NULL)));
    if (n == 1)
        MUST(send(client, "x", 1, 0));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
