/* Internet sockets on loopback. */
#ifndef INET_H
#define INET_H
#include "victim.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

UNUSED static socklen_t inet_loopback(union address *to, int family, uint16_t port) {
    memset(to, 0, sizeof *to);
    to->any.sa_family = (sa_family_t)family;
    if (family == AF_INET) {
        to->v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        to->v4.sin_port = htons(port);
        return sizeof to->v4;
    }
    to->v6.sin6_addr = in6addr_loopback;
    to->v6.sin6_port = htons(port);
    return sizeof to->v6;
}

UNUSED static uint16_t inet_port(int fd) {
    union address address;
    socklen_t length = sizeof address;
    MUST(getsockname(fd, &address.any, &length));
    return ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
}

UNUSED static int inet_option(int fd, int level, int which) {
    int value = -1;
    socklen_t length = sizeof value;
    if (getsockopt(fd, level, which, &value, &length) == -1)
        fail("getsockopt %d %d: %s", level, which, strerror(errno));
    return value;
}

UNUSED static void inet_set(int fd, int level, int which, int value) {
    if (setsockopt(fd, level, which, &value, sizeof value) == -1)
        fail("setsockopt %d %d: %s", level, which, strerror(errno));
}

/* Bound to loopback; to a port the kernel chooses when port is 0. */
UNUSED static int inet_bound(int family, int type, uint16_t port) {
    int fd = socket(family, type, 0);
    if (fd == -1 && errno == EAFNOSUPPORT)
        skip("no address family %d", family);
    EXPECT(fd >= 0, "socket: %s", strerror(errno));
    if (family == AF_INET6)
        inet_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    union address address;
    socklen_t length = inet_loopback(&address, family, port);
    if (bind(fd, &address.any, length) == -1) {
        if (family == AF_INET6 && errno == EADDRNOTAVAIL)
            skip("no IPv6 loopback address");
        fail("bind: %s", strerror(errno));
    }
    return fd;
}

struct option {
    int level, which;
    const char *name;
};

#endif
