/* Victims whose object no checkpoint carries: they only show, by going on, that the refusal left them unharmed. */
#ifndef REFUSED_H
#define REFUSED_H
#include "victim.h"

/* What each of them can do to itself: lose its descriptor. */
static int object = -1;

UNUSED static void lose_object(int n) {
    (void)n;
    int fd = (int)MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    MUST(dup2(fd, object));
    close(fd);
}

/* An object, or the verdict that this machine has none of the kind. */
UNUSED static int obtain(const char *what, long answer) {
    if (answer == -1)
        skip("%s: %s", what, strerror(errno));
    return (int)answer;
}

#endif
