/* A fanotify group with a mark on a directory. */
#include "refused.h"
#include <sys/fanotify.h>

static void setup(void) {
    object = obtain("fanotify_init", fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY));
    if (fanotify_mark(object, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, ".") == -1)
        skip("fanotify_mark: %s", strerror(errno));
}

static void check(void) {
    struct fanotify_event_metadata event;
    while (read(object, &event, sizeof event) > 0)
        close(event.fd);
    close((int)MUST(open("watched", O_RDWR | O_CREAT, 0600)));
    EXPECT_EQ("event", read(object, &event, sizeof event), sizeof event);
    EXPECT(event.mask & FAN_OPEN, "event's mask is %#llx", (unsigned long long)event.mask);
}

VICTIM(.setup = setup, .check = check, .harm = lose_object, .harms = 1)
