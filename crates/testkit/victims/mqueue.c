/* A POSIX message queue with a message in it, its name removed. */
#include "refused.h"
#include <mqueue.h>

static void setup(void) {
    char name[64];
    snprintf(name, sizeof name, "/victim-%d", getpid());
    struct mq_attr attr = {.mq_maxmsg = 4, .mq_msgsize = 64};
    object = obtain("mq_open", mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &attr));
    mq_unlink(name);
    MUST(mq_send(object, "waiting", 7, 5));
}

static void check(void) {
    char bytes[64];
    unsigned priority;
    EXPECT_EQ("message", mq_receive(object, bytes, sizeof bytes, &priority), 7);
    EXPECT_MEM("message", bytes, "waiting", 7);
    EXPECT_EQ("priority", priority, 5);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
