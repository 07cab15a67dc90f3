/* Processes of one victim talk through a shared page: numbered stages, a pid list. */
#ifndef TALK_H
#define TALK_H
#include "victim.h"

struct talk {
    _Atomic int up, stage, done;
    _Atomic long values[256];
};
static struct talk *talk;

UNUSED static void talk_init(void) {
    talk = mmap(NULL, sizeof *talk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(talk != MAP_FAILED, "mmap: %s", strerror(errno));
}

/* Waits for the parent's `go`, however long it takes. */
UNUSED static void talk_wait(int stage) {
    while (atomic_load(&talk->stage) < stage)
        sleep_ns(2000000);
}

#endif
