/* Shared file mappings of two processes: written through the mapping and through the file, at an offset, of a read-only
 * opening (which may never become writable), with the descriptor closed. */
#include "areas.h"

enum { SIZE = 64 * 4096 };
struct talk {
    _Atomic int child_up, stage, child_stage;
};
static struct talk *talk;
static unsigned char *whole, *part, *reading;
static pid_t child;
static int harmed = -1;

static void child_main(void) {
    atomic_store(&talk->child_up, 1);
    await_flag("parent", &talk->stage, 1);
    EXPECT_MEM("child: mapping at an offset", part + 10, "from parent", 11);
    memcpy(part + 100, "from child", 10);
    atomic_store(&talk->child_stage, 1);
    _exit(0);
}

static void setup(void) {
    int fd = (int)MUST(open("mapped", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MUST(ftruncate(fd, SIZE));
    whole = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    part = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 40 * 4096);
    int other = (int)MUST(open("mapped", O_RDONLY | O_CLOEXEC));
    reading = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, other, 0);
    int talking = (int)MUST(open("talk", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MUST(ftruncate(talking, 4096));
    talk = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, talking, 0);
    EXPECT(whole != MAP_FAILED && part != MAP_FAILED && reading != MAP_FAILED && talk != MAP_FAILED, "mmap: %s",
           strerror(errno));
    close(fd);
    close(other);
    close(talking);
    pattern_fill(whole, SIZE, 41);
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    await_flag("child", &talk->child_up, 1);
}

static void check(void) {
    pattern_check("shared file mapping", whole, SIZE, 41);
    pattern_check("read-only shared file mapping", reading, SIZE, 41);
    EXPECT_STR("permissions", area_of(whole).permissions, "rw-s");
    EXPECT_STR("permissions", area_of(reading).permissions, "r--s");
    EXPECT_EQ("offset", area_of(part).offset, 40 * 4096);
    EXPECT_ERRNO(mprotect(reading, 4096, PROT_READ | PROT_WRITE), EACCES);
    memcpy(whole + 40 * 4096 + 10, "from parent", 11);
    if (harmed == 1)
        whole[40 * 4096 + 10] = 'x';
    atomic_store(&talk->stage, 1);
    await_flag("child", &talk->child_stage, 1);
    char bytes[16];
    int fd = (int)MUST(open("mapped", O_RDWR | O_CLOEXEC));
    EXPECT_EQ("read", pread(fd, bytes, 10, 40 * 4096 + 100), 10);
    EXPECT_MEM("what the child wrote, in the file", bytes, "from child", 10);
    EXPECT_EQ("write", pwrite(fd, "by write", 8, 3000), 8);
    EXPECT_MEM("what was written to the file", whole + 3000, "by write", 8);
    EXPECT_MEM("what was written to the file", reading + 3000, "by write", 8);
    close(fd);
    reap_ok("child", child);
}

static void harm(int n) {
    harmed = n;
    if (n == 0) {
        static unsigned char copy[SIZE];
        memcpy(copy, whole, SIZE);
        mmap(whole, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        memcpy(whole, copy, SIZE);
    }
    if (n == 2)
        whole[99] ^= 1;
    if (n == 3) {
        int fd = open("mapped", O_RDWR);
        mmap(reading, SIZE, PROT_READ, MAP_SHARED | MAP_FIXED, fd, 0);
        close(fd);
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 4)
