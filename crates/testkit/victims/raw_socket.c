/* A raw IPv4 socket. */
#include "refused.h"
#include <netinet/in.h>
#include <sys/socket.h>

static void setup(void) { object = obtain("raw socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }

static void check(void) {
    int value = 0;
    socklen_t length = sizeof value;
    MUST(getsockopt(object, SOL_SOCKET, SO_TYPE, &value, &length));
    EXPECT_EQ("type", value, SOCK_RAW);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
