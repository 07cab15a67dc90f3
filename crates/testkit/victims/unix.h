/* Unix socket addresses: a path, or "@name" for an abstract one. */
#ifndef UNIX_H
#define UNIX_H
#include "victim.h"
#include <sys/socket.h>
#include <sys/un.h>

/* Abstract names belong to the whole network namespace: the pid keeps two runs apart. */
UNUSED static socklen_t unix_address(struct sockaddr_un *to, const char *name) {
    memset(to, 0, sizeof *to);
    to->sun_family = AF_UNIX;
    int n;
    if (name[0] == '@') {
        n = snprintf(to->sun_path + 1, sizeof to->sun_path - 1, "victim-%s-%d", name + 1, getpid()) + 1;
    } else {
        n = snprintf(to->sun_path, sizeof to->sun_path, "%s", name) + 1;
    }
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (unsigned)n);
}

UNUSED static void unix_bind(int fd, const char *name) {
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, name);
    MUST(bind(fd, (struct sockaddr *)&address, length));
}

UNUSED static void unix_connect(int fd, const char *name) {
    struct sockaddr_un address;
    socklen_t length = unix_address(&address, name);
    MUST(connect(fd, (struct sockaddr *)&address, length));
}

UNUSED static void unix_expect_name(const char *what, int fd, const char *name, bool peer) {
    struct sockaddr_un wanted, got;
    socklen_t wanted_length = unix_address(&wanted, name), length = sizeof got;
    memset(&got, 0, sizeof got);
    MUST(peer ? getpeername(fd, (struct sockaddr *)&got, &length) : getsockname(fd, (struct sockaddr *)&got, &length));
    EXPECT_EQ(what, length, wanted_length);
    EXPECT_MEM(what, got.sun_path, wanted.sun_path, length - offsetof(struct sockaddr_un, sun_path));
}

#endif
