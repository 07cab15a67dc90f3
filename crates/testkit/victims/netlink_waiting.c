/* A netlink socket with an answer that waits to be read. */
#include "refused.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

static void setup(void) {
    object = obtain("netlink socket", socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    MUST(bind(object, (struct sockaddr *)&address, sizeof address));
    struct {
        struct nlmsghdr head;
        struct rtgenmsg body;
    } request = {.head = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtgenmsg)), .nlmsg_type = RTM_GETLINK,
                          .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 77}};
    EXPECT(send(object, &request, request.head.nlmsg_len, 0) > 0, "send: %s", strerror(errno));
}

static void check(void) {
    _Alignas(8) char answer[65536];
    ssize_t n = recv(object, answer, sizeof answer, MSG_DONTWAIT);
    EXPECT(n >= (ssize_t)sizeof(struct nlmsghdr), "no answer waits: %zd %s", n, strerror(errno));
    EXPECT_EQ("sequence number", ((struct nlmsghdr *)(void *)answer)->nlmsg_seq, 77);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
