// variants: static full
/* Regular files and a directory, in one process: positions and flags, shared by dup and apart by open; O_APPEND,
 * O_CLOEXEC, O_NONBLOCK, O_DIRECTORY, O_PATH, O_SYNC, O_NOATIME; descriptor numbers with gaps, up to 1000. */
#include "victim.h"
#include <dirent.h>

struct opened {
    int fd;
    const char *name;
    int open_flags;
    off_t position;
    int fd_flags;
    int dup_of; /* index, or -1 */
    int wanted; /* descriptor number, or 0 */
    int status;
    struct stat stat;
};

static struct opened table[] = {
    {.name = "a", .open_flags = O_RDWR, .position = 1234, .dup_of = -1},
    {.name = "a", .open_flags = O_RDONLY, .position = 77, .dup_of = -1},
    {.name = "a", .dup_of = 0, .fd_flags = FD_CLOEXEC},
    {.name = "a", .dup_of = 0, .wanted = 200},
    {.name = "b", .open_flags = O_WRONLY | O_APPEND, .position = 4000, .dup_of = -1, .fd_flags = FD_CLOEXEC},
    {.name = "b", .open_flags = O_RDWR | O_NONBLOCK, .position = 0, .dup_of = -1, .wanted = 1000},
    {.name = "b", .open_flags = O_RDWR | O_SYNC, .position = 99999, .dup_of = -1, .wanted = 57},
    {.name = "b", .open_flags = O_RDONLY | O_NOATIME, .position = 5, .dup_of = -1},
    {.name = "d", .open_flags = O_RDONLY | O_DIRECTORY, .position = 0, .dup_of = -1},
    {.name = "d", .dup_of = 8, .wanted = 300, .fd_flags = FD_CLOEXEC},
    {.name = "d/sub/c", .open_flags = O_PATH, .position = 0, .dup_of = -1},
    {.name = "empty", .open_flags = O_RDWR, .position = 1LL << 33, .dup_of = -1},
};
enum { COUNT = sizeof table / sizeof *table };
static char listing[64][16];
static int listed;
static unsigned char content[20000];

/* criu forgets O_DIRECTORY */
static int status_of(int fd) { return (int)MUST(fcntl(fd, F_GETFL)) & ~(FULL ? 0 : O_DIRECTORY); }

static void write_file(const char *name, size_t length, uint64_t seed) {
    int fd = (int)MUST(open(name, O_WRONLY | O_CREAT, 0640));
    pattern_fill(content, length, seed);
    EXPECT(write(fd, content, length) == (ssize_t)length, "write %s: %s", name, strerror(errno));
    close(fd);
}

static void setup(void) {
    write_file("a", 10000, 1);
    write_file("b", 20000, 2);
    write_file("empty", 0, 3);
    MUST(mkdir("d", 0755));
    MUST(mkdir("d/sub", 0700));
    write_file("d/sub/c", 100, 4);
    for (int i = 0; i < 20; i++) {
        char name[32];
        snprintf(name, sizeof name, "d/entry%02d", i);
        write_file(name, 0, 5);
    }
    for (int i = 0; i < COUNT; i++) {
        struct opened *o = &table[i];
        if (o->dup_of >= 0)
            o->fd = (int)MUST(dup(table[o->dup_of].fd));
        else
            o->fd = (int)MUST(open(o->name, o->open_flags));
        if (o->wanted) {
            MUST(dup2(o->fd, o->wanted));
            close(o->fd);
            o->fd = o->wanted;
        }
        MUST(fcntl(o->fd, F_SETFD, o->fd_flags));
        if (o->position && o->dup_of < 0)
            MUST(lseek(o->fd, o->position, SEEK_SET));
        o->status = status_of(o->fd);
        MUST(fstat(o->fd, &o->stat));
    }
    /* half of the directory is read: the rest must come after */
    char buffer[200];
    long n = MUST(syscall(SYS_getdents64, table[8].fd, buffer, sizeof buffer));
    EXPECT(n > 0, "the directory is empty");
    table[8].position = MUST(lseek(table[8].fd, 0, SEEK_CUR));
    int other = (int)MUST(open("d", O_RDONLY | O_DIRECTORY));
    MUST(lseek(other, table[8].position, SEEK_SET));
    DIR *dir = fdopendir(other);
    struct dirent *entry;
    while ((entry = readdir(dir)) && listed < 64)
        snprintf(listing[listed++], sizeof listing[0], "%.15s", entry->d_name);
    closedir(dir);
    EXPECT(listed > 2, "nothing left to read in the directory");
}

static void check(void) {
    char text[64];
    for (int i = 0; i < COUNT; i++) {
        struct opened *o = &table[i];
        struct opened *first = o->dup_of >= 0 ? &table[o->dup_of] : o;
        struct stat now;
        snprintf(text, sizeof text, "descriptor %d (%s): flags", o->fd, o->name);
        EXPECT_EQ(text, status_of(o->fd), o->status);
        snprintf(text, sizeof text, "descriptor %d (%s): descriptor flags", o->fd, o->name);
        EXPECT_EQ(text, MUST(fcntl(o->fd, F_GETFD)), o->fd_flags);
        MUST(fstat(o->fd, &now));
        EXPECT(now.st_ino == o->stat.st_ino && now.st_dev == o->stat.st_dev, "descriptor %d (%s): another file", o->fd,
               o->name);
        EXPECT_EQ("size", now.st_size, o->stat.st_size);
        EXPECT_EQ("mode", now.st_mode, o->stat.st_mode);
        if (o->open_flags & O_PATH) {
            EXPECT_ERRNO(lseek(o->fd, 0, SEEK_CUR), EBADF);
            continue;
        }
        snprintf(text, sizeof text, "descriptor %d (%s): position", o->fd, o->name);
        EXPECT_EQ(text, lseek(o->fd, 0, SEEK_CUR), first->position);
    }
    /* duplicates move together, separate openings do not */
    unsigned char bytes[256];
    MUST(lseek(table[3].fd, 4321, SEEK_SET));
    EXPECT_EQ("position of a duplicate", lseek(table[0].fd, 0, SEEK_CUR), 4321);
    EXPECT_EQ("position of a duplicate", lseek(table[2].fd, 0, SEEK_CUR), 4321);
    EXPECT_EQ("position of a separate opening", lseek(table[1].fd, 0, SEEK_CUR), 77);
    EXPECT_EQ("read", read(table[0].fd, bytes, 50), 50);
    for (int i = 0; i < 50; i++)
        EXPECT_EQ("content of a", bytes[i], pattern_byte(1, 4321 + (uint64_t)i));
    int flags = status_of(table[2].fd);
    MUST(fcntl(table[2].fd, F_SETFL, flags | O_NONBLOCK));
    EXPECT_EQ("flags of a duplicate", status_of(table[0].fd), flags | O_NONBLOCK);
    EXPECT_EQ("flags of a separate opening", status_of(table[1].fd), table[1].status);
    /* appends at the end whatever the position */
    EXPECT_EQ("append", write(table[4].fd, "tail", 4), 4);
    EXPECT_EQ("position after appending", lseek(table[4].fd, 0, SEEK_CUR), 20004);
    EXPECT_EQ("read", pread(table[5].fd, bytes, 10, 19998), 6);
    EXPECT_MEM("the appended bytes", bytes + 2, "tail", 4);
    EXPECT_ERRNO(read(table[4].fd, bytes, 1), EBADF);
    EXPECT_ERRNO(write(table[1].fd, bytes, 1), EBADF);
    /* the directory goes on where it was */
    DIR *dir = fdopendir(dup(table[8].fd));
    EXPECT(dir, "fdopendir: %s", strerror(errno));
    for (int i = 0; i < listed; i++) {
        struct dirent *entry = readdir(dir);
        EXPECT(entry, "directory: expected %s, got its end", listing[i]);
        EXPECT_STR("directory entry", entry->d_name, listing[i]);
    }
    EXPECT(!readdir(dir), "more directory entries than before");
    EXPECT_EQ("directory's mode", fchdir(table[9].fd), 0);
    EXPECT_EQ("file below the directory", access("sub/c", F_OK), 0);
    /* nothing else is open */
    EXPECT_EQ("descriptors", count_fds(), victim_fds + COUNT + 1);
}

static void harm(int n) {
    int fd;
    switch (n) {
    case 0: lseek(table[0].fd, 1, SEEK_CUR); break;
    case 1: lseek(table[7].fd, 0, SEEK_SET); break;
    case 2: fcntl(table[4].fd, F_SETFL, 0); break;
    case 3: fcntl(table[2].fd, F_SETFD, 0); break;
    case 4: fd = open("a", O_RDWR); lseek(fd, 1234, SEEK_SET); dup2(fd, 200); close(fd); break;
    case 5: fd = open("d", O_RDONLY | O_DIRECTORY); dup2(fd, table[8].fd); close(fd); break;
    case 6: close(1000); break;
    case 7: MUST(dup(0)); break;
    case 8: fcntl(57, F_SETFL, O_NONBLOCK); break;
    case 10: fd = open("d", O_RDONLY); lseek(fd, table[8].position, SEEK_SET); dup2(fd, table[8].fd);
             dup3(fd, table[9].fd, O_CLOEXEC); close(fd); break;
    case 9: fd = open("b", O_WRONLY | O_CREAT | O_TRUNC, 0600); close(fd); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 11 : 10)
