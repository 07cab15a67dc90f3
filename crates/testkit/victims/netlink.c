/* A netlink socket as libraries keep it: bound to a chosen port and to groups, nothing in its queue. */
#include "refused.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

static struct sockaddr_nl before;

static void setup(void) {
    object = obtain("netlink socket", socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_NOTIFY};
    MUST(bind(object, (struct sockaddr *)&address, sizeof address));
    socklen_t length = sizeof before;
    MUST(getsockname(object, (struct sockaddr *)&before, &length));
}

static void check(void) {
    struct sockaddr_nl now;
    socklen_t length = sizeof now;
    MUST(getsockname(object, (struct sockaddr *)&now, &length));
    EXPECT_EQ("port", now.nl_pid, before.nl_pid);
    EXPECT_EQ("groups", now.nl_groups, before.nl_groups);
    EXPECT_EQ("descriptor flags", MUST(fcntl(object, F_GETFD)), FD_CLOEXEC);
    EXPECT(fcntl(object, F_GETFL) & O_NONBLOCK, "the socket blocks");
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } request = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtgenmsg)), .nlmsg_type = RTM_GETLINK,
                          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 78}};
    EXPECT(send(object, &request, request.head.nlmsg_len, 0) > 0, "send: %s", strerror(errno));
    _Alignas(8) char answer[65536];
    ssize_t n = recv(object, answer, sizeof answer, MSG_DONTWAIT);
    EXPECT(n >= (ssize_t)sizeof(struct nlmsghdr), "no answer: %s", strerror(errno));
    EXPECT_EQ("sequence number", ((struct nlmsghdr *)(void *)answer)->nlmsg_seq, 78);
}

static void harm(int n) {
    if (n == 0)
        lose_object(0);
    int group = RTNLGRP_NEIGH;
    if (n == 1)
        MUST(setsockopt(object, 270 /* SOL_NETLINK */, NETLINK_ADD_MEMBERSHIP, &group, sizeof group));
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 2)
