// variants: full
/* inotify: watches of files and directories with masks, watch numbers with gaps, flags; events after restore name the
 * right watch; in the full variant events that waited unread, and nothing else, come first. */
#include "victim.h"
#include <sys/inotify.h>

enum { DIRECTORY, FILE_, DROPPED, LAST, WATCHES };
static int fd, watch[WATCHES], status;
static const char *paths[WATCHES] = {"dir", "file", "dropped", "dir/last"};
static const uint32_t masks[WATCHES] = {IN_CREATE | IN_DELETE | IN_MOVED_TO, IN_MODIFY | IN_ATTRIB, IN_OPEN, IN_CLOSE_WRITE};

struct event {
    int watch;
    uint32_t mask;
    char name[64];
};

static int take(struct event *to, int most) {
    _Alignas(struct inotify_event) char buffer[8192];
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n == -1) {
        EXPECT(errno == EAGAIN, "read: %s", strerror(errno));
        return 0;
    }
    int count = 0;
    for (char *at = buffer; at < buffer + n && count < most;) {
        struct inotify_event *event = (void *)at;
        to[count].watch = event->wd;
        to[count].mask = event->mask;
        snprintf(to[count].name, sizeof to[count].name, "%s", event->len ? event->name : "");
        count++;
        at += sizeof *event + event->len;
    }
    return count;
}

static void expect_event(const struct event *got, int watch_, uint32_t mask, const char *name) {
    EXPECT(got->watch == watch_ && got->mask == mask && strcmp(got->name, name) == 0,
           "event: expected watch %d mask %#x \"%s\", got %d %#x \"%s\"", watch_, mask, name, got->watch, got->mask, got->name);
}

static void make(const char *name) { close((int)MUST(open(name, O_WRONLY | O_CREAT, 0644))); }

static void setup(void) {
    MUST(mkdir("dir", 0755));
    make("file");
    make("dropped");
    make("dir/last");
    fd = (int)MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    for (int i = 0; i < WATCHES; i++)
        watch[i] = (int)MUST(inotify_add_watch(fd, paths[i], masks[i]));
    MUST(inotify_rm_watch(fd, watch[DROPPED]));
    struct event events[8];
    EXPECT_EQ("events at first", take(events, 8), 1);
    status = (int)MUST(fcntl(fd, F_GETFL));
    if (FULL) {
        make("dir/before");
        MUST(chmod("file", 0600));
    }
}

static void check(void) {
    struct event events[16];
    EXPECT_EQ("flags", MUST(fcntl(fd, F_GETFL)), status);
    EXPECT_EQ("descriptor flags", MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
    int n = take(events, 16);
    if (FULL) {
        EXPECT_EQ("events that waited", n, 2);
        expect_event(&events[0], watch[DIRECTORY], IN_CREATE, "before");
        expect_event(&events[1], watch[FILE_], IN_ATTRIB, "");
    }
    make("dir/new");
    int file = (int)MUST(open("file", O_WRONLY));
    MUST(write(file, "x", 1));
    close(file);
    make("dropped");
    close((int)MUST(open("dir/last", O_WRONLY)));
    close((int)MUST(open("dir/last", O_RDONLY)));
    MUST(unlink("dir/new"));
    n = take(events, 16);
    EXPECT_EQ("events", n, 4);
    expect_event(&events[0], watch[DIRECTORY], IN_CREATE, "new");
    expect_event(&events[1], watch[FILE_], IN_MODIFY, "");
    expect_event(&events[2], watch[LAST], IN_CLOSE_WRITE, "");
    expect_event(&events[3], watch[DIRECTORY], IN_DELETE, "new");
    /* the same file gives the same watch; another a number not in use */
    EXPECT_EQ("watch of a known file", inotify_add_watch(fd, "file", IN_MODIFY), watch[FILE_]);
    int fresh = (int)MUST(inotify_add_watch(fd, "dropped", IN_OPEN));
    EXPECT(fresh != watch[DIRECTORY] && fresh != watch[FILE_] && fresh != watch[LAST], "a new watch got the number %d", fresh);
    for (int i = 0; i < WATCHES; i++)
        if (i != DROPPED)
            MUST(inotify_rm_watch(fd, watch[i]));
}

static void harm(int n) {
    struct event events[8];
    switch (n) {
    case 0: MUST(inotify_rm_watch(fd, watch[LAST])); take(events, 8); break;
    case 1: MUST(inotify_add_watch(fd, "dir", IN_CREATE)); break;
    case 2: fcntl(fd, F_SETFL, 0); break;
    case 3: take(events, 8); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 4 : 3)
