// variants: full
/* File locks: flock shared and exclusive (kept by a duplicate), record locks for reading and writing on ranges, held by
 * two processes; in the full variant locks of an opening (F_OFD_SETLK). A stranger forked afterwards tries each. */
#include "talk.h"
#include <sys/file.h>

static int exclusive, shared, records, ofd, duplicate;
static pid_t child;

static void lock(int fd, int command, short type, off_t start, off_t length) {
    struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    MUST(fcntl(fd, command, &l));
}

static int make(const char *name) {
    int fd = (int)MUST(open(name, O_RDWR | O_CREAT, 0644));
    MUST(ftruncate(fd, 10000));
    return fd;
}

static void setup(void) {
    talk_init();
    exclusive = make("exclusive");
    shared = make("shared");
    records = make("records");
    MUST(flock(exclusive, LOCK_EX));
    duplicate = (int)MUST(dup(exclusive));
    close(exclusive);
    MUST(flock(shared, LOCK_SH));
    lock(records, F_SETLK, F_WRLCK, 100, 50);
    lock(records, F_SETLK, F_RDLCK, 200, 10);
    lock(records, F_SETLK, F_WRLCK, 9000, 0); /* to the end, wherever it moves */
    if (FULL) {
        ofd = make("ofd");
        lock(ofd, F_OFD_SETLK, F_WRLCK, 5, 5);
    }
    child = (pid_t)MUST(fork());
    if (child == 0) {
        int of_child = FULL ? records : (int)MUST(open("records", O_RDWR));
        lock(of_child, F_SETLK, F_WRLCK, 1000, 1);
        atomic_store(&talk->up, 1);
        talk_wait(1);
        _exit(0);
    }
    await_flag("child", &talk->up, 1);
}

/* What a stranger sees in the way of a write lock at this byte: type, and who. */
static void expect_lock(off_t at, short type, off_t start, off_t length, pid_t owner) {
    struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1};
    int fd = (int)MUST(open("records", O_RDWR));
    MUST(fcntl(fd, F_GETLK, &l));
    char text[64];
    snprintf(text, sizeof text, "lock at byte %ld: type", (long)at);
    EXPECT_EQ(text, l.l_type, type);
    if (type != F_UNLCK) {
        EXPECT_EQ("lock's start", l.l_start, start);
        EXPECT_EQ("lock's length", l.l_len, length);
        EXPECT_EQ("lock's owner", l.l_pid, owner);
    }
    close(fd);
}

static void stranger(pid_t parent) {
    int fd = (int)MUST(open("exclusive", O_RDWR));
    EXPECT_ERRNO(flock(fd, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    fd = (int)MUST(open("shared", O_RDWR));
    MUST(flock(fd, LOCK_SH | LOCK_NB));
    EXPECT_ERRNO(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    expect_lock(99, F_UNLCK, 0, 0, 0);
    expect_lock(100, F_WRLCK, 100, 50, parent);
    expect_lock(149, F_WRLCK, 100, 50, parent);
    expect_lock(150, F_UNLCK, 0, 0, 0);
    expect_lock(205, F_RDLCK, 200, 10, parent);
    expect_lock(1000, F_WRLCK, 1000, 1, child);
    expect_lock(50000, F_WRLCK, 9000, 0, parent);
    if (FULL) {
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 7, .l_len = 1};
        fd = (int)MUST(open("ofd", O_RDWR));
        MUST(fcntl(fd, F_GETLK, &l));
        EXPECT_EQ("type of the opening's lock", l.l_type, F_WRLCK);
        EXPECT_EQ("start of the opening's lock", l.l_start, 5);
        EXPECT_EQ("owner of the opening's lock", l.l_pid, -1);
    }
    _exit(0);
}

static void check(void) {
    pid_t parent = getpid();
    pid_t other = (pid_t)MUST(fork());
    if (other == 0)
        stranger(parent);
    reap_ok("stranger", other);
    /* closing the last descriptor of the opening lets go of it */
    int fd = (int)MUST(open("exclusive", O_RDWR));
    EXPECT_ERRNO(flock(fd, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    MUST(flock(duplicate, LOCK_UN));
    MUST(flock(fd, LOCK_EX | LOCK_NB));
    close(fd);
    atomic_store(&talk->stage, 1);
    reap_ok("child", child);
}

static void harm(int n) {
    switch (n) {
    case 0: flock(duplicate, LOCK_UN); break;
    case 1: flock(shared, LOCK_EX | LOCK_NB); break;
    case 2: lock(records, F_SETLK, F_UNLCK, 149, 1); break;
    case 3: lock(records, F_SETLK, F_WRLCK, 200, 10); break;
    case 4: close((int)MUST(open("records", O_RDONLY))); break;
    case 5: lock(ofd, F_OFD_SETLK, F_UNLCK, 5, 5); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 6 : 5)
