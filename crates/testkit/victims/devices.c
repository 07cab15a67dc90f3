/* The character devices every container has, opened with various flags, one mapped; by number and by behaviour. */
#include "victim.h"
#include <sys/sysmacros.h>

static struct { const char *path; int flags, minor, fd, status; } table[] = {
    {"/dev/null", O_RDWR, 3, 0, 0},    {"/dev/null", O_WRONLY | O_APPEND | O_CLOEXEC, 3, 0, 0},
    {"/dev/zero", O_RDONLY, 5, 0, 0},  {"/dev/full", O_RDWR | O_NONBLOCK, 7, 0, 0},
    {"/dev/random", O_RDONLY, 8, 0, 0}, {"/dev/urandom", O_RDONLY | O_CLOEXEC, 9, 0, 0},
};
enum { COUNT = sizeof table / sizeof *table };
static unsigned char *mapped;
static struct stat kept_stdin;

static void setup(void) {
    for (int i = 0; i < COUNT; i++) {
        table[i].fd = (int)MUST(open(table[i].path, table[i].flags));
        table[i].status = (int)MUST(fcntl(table[i].fd, F_GETFL));
    }
    mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, table[2].fd, 0);
    EXPECT(mapped != MAP_FAILED, "mmap: %s", strerror(errno));
    pattern_fill(mapped, 4096, 3);
    MUST(fstat(0, &kept_stdin));
}

static void check(void) {
    unsigned char bytes[256], more[256];
    for (int i = 0; i < COUNT; i++) {
        struct stat stat;
        MUST(fstat(table[i].fd, &stat));
        EXPECT(S_ISCHR(stat.st_mode), "%s is no device any more", table[i].path);
        EXPECT_EQ(table[i].path, stat.st_rdev, makedev(1, (unsigned)table[i].minor));
        EXPECT_EQ("flags", MUST(fcntl(table[i].fd, F_GETFL)), table[i].status);
        EXPECT_EQ("descriptor flags", MUST(fcntl(table[i].fd, F_GETFD)), table[i].flags & O_CLOEXEC ? FD_CLOEXEC : 0);
    }
    EXPECT_EQ("read of /dev/null", read(table[0].fd, bytes, 10), 0);
    EXPECT_EQ("write to /dev/null", write(table[1].fd, bytes, 10), 10);
    memset(bytes, 1, sizeof bytes);
    EXPECT_EQ("read of /dev/zero", read(table[2].fd, bytes, 256), 256);
    check_zero("/dev/zero", bytes, 256);
    EXPECT_ERRNO(write(table[3].fd, bytes, 1), ENOSPC);
    for (int i = 4; i < 6; i++) {
        EXPECT_EQ("read of a random device", read(table[i].fd, bytes, 256), 256);
        EXPECT_EQ("read of a random device", read(table[i].fd, more, 256), 256);
        EXPECT(memcmp(bytes, more, 256) != 0, "%s repeats itself", table[i].path);
    }
    pattern_check("private mapping of /dev/zero", mapped, 4096, 3);
    check_zero("private mapping of /dev/zero", mapped + 4096, 4096);
    struct stat stat;
    MUST(fstat(0, &stat));
    EXPECT_EQ("inode of standard input", stat.st_ino, kept_stdin.st_ino);
    EXPECT_EQ("read of standard input", read(0, bytes, 1), 0);
}

static void harm(int n) {
    if (n == 0)
        dup2(table[0].fd, table[2].fd);
    if (n == 1)
        fcntl(table[3].fd, F_SETFL, 0);
    if (n == 2)
        mapped[5] ^= 1;
    if (n == 3)
        fcntl(table[1].fd, F_SETFD, 0);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
