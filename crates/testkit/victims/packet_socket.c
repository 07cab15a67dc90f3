/* A packet socket bound to loopback. */
#include "refused.h"
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

static void setup(void) {
    object = obtain("packet socket", socket(AF_PACKET, SOCK_DGRAM, 0));
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_LOOPBACK), .sll_ifindex = (int)if_nametoindex("lo")};
    MUST(bind(object, (struct sockaddr *)&address, sizeof address));
}

static void check(void) {
    struct sockaddr_ll address;
    socklen_t length = sizeof address;
    MUST(getsockname(object, (struct sockaddr *)&address, &length));
    EXPECT_EQ("interface", address.sll_ifindex, if_nametoindex("lo"));
    EXPECT_EQ("protocol", address.sll_protocol, htons(ETH_P_LOOPBACK));
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
