/* Shared anonymous memory of a parent and a child: one segment mapped whole, in part, twice and with another protection;
 * one by a shared mapping of /dev/zero; sparse. What one writes after restore the other sees. */
#include "areas.h"

enum { SIZE = 1 << 20 };
struct talk {
    _Atomic int child_up, stage, child_stage;
};
static struct talk *talk;
static unsigned char *shared, *twice, *zero, *read_only;
static pid_t child;
static int harmed = -1;

static void await(_Atomic int *stage, int wanted) { await_flag("other process", stage, wanted); }

static void child_main(void) {
    munmap(shared, SIZE / 2); /* keeps the second half only */
    munmap(twice, SIZE);
    atomic_store(&talk->child_up, 1);
    await(&talk->stage, 1);
    for (size_t i = 0; i < 4096; i++)
        EXPECT(shared[SIZE / 2 + i] == pattern_byte(31, SIZE / 2 + i), "child: shared memory, byte %zu differs", i);
    EXPECT_MEM("child: what the parent wrote after", shared + SIZE - 100, "from parent", 11);
    pattern_check("child: /dev/zero", zero, 8192, 32);
    EXPECT_MEM("child: read-only mapping", read_only + SIZE - 100, "from parent", 11);
    memcpy(shared + SIZE - 200, "from child", 10);
    memcpy(zero + 100, "child too", 9);
    struct area now = area_of(read_only);
    EXPECT_STR("child: permissions", now.permissions, "r--s");
    atomic_store(&talk->child_stage, 1);
    _exit(0);
}

static void setup(void) {
    int protection = PROT_READ | PROT_WRITE;
    talk = mmap(NULL, 4096, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared = mmap(NULL, SIZE, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int fd = (int)MUST(open("/dev/zero", O_RDWR | O_CLOEXEC));
    zero = mmap(NULL, 65536, protection, MAP_SHARED, fd, 0);
    close(fd);
    EXPECT(talk != MAP_FAILED && shared != MAP_FAILED && zero != MAP_FAILED, "mmap: %s", strerror(errno));
    /* old size 0 maps the same segment once more: mremap(2) */
    twice = mremap(shared, 0, SIZE, MREMAP_MAYMOVE);
    read_only = mremap(shared, 0, SIZE, MREMAP_MAYMOVE);
    EXPECT(twice != MAP_FAILED && read_only != MAP_FAILED, "mremap: %s", strerror(errno));
    MUST(mprotect(read_only, SIZE, PROT_READ));
    for (size_t at = 0; at < SIZE; at += 16 * 4096)
        for (size_t i = 0; i < 4096; i++)
            shared[at + i] = pattern_byte(31, at + i);
    pattern_fill(zero, 8192, 32);
    child = (pid_t)MUST(fork());
    if (child == 0)
        child_main();
    await(&talk->child_up, 1);
}

static void check(void) {
    for (size_t at = 0; at < SIZE; at += 16 * 4096) {
        for (size_t i = 0; i < 4096; i++)
            EXPECT(twice[at + i] == pattern_byte(31, at + i), "shared memory, byte %zu differs", at + i);
        check_zero("shared memory never written", shared + at + 4096, 4096);
    }
    EXPECT_STR("permissions", area_of(read_only).permissions, "r--s");
    EXPECT_STR("permissions", area_of(shared).permissions, "rw-s");
    memcpy(shared + SIZE - 100, "from parent", 11);
    if (harmed == 1)
        memcpy(shared + SIZE - 100, "x", 1);
    atomic_store(&talk->stage, 1);
    await(&talk->child_stage, 1);
    EXPECT_MEM("what the child wrote after", twice + SIZE - 200, "from child", 10);
    EXPECT_MEM("what the child wrote after", read_only + SIZE - 200, "from child", 10);
    EXPECT_MEM("what the child wrote after, /dev/zero", zero + 100, "child too", 9);
    reap_ok("child", child);
}

static void harm(int n) {
    int protection = PROT_READ | PROT_WRITE;
    harmed = n;
    unsigned char copy[8192];
    switch (n) {
    case 0: /* a copy in place of the segment */
        memcpy(copy, zero, 8192);
        mmap(zero, 65536, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        memcpy(zero, copy, 8192);
        break;
    case 2: shared[16 * 4096 * 3] ^= 1; break;
    case 3: mprotect(read_only, SIZE, protection); break;
    case 4: kill(child, SIGKILL); atomic_store(&talk->child_stage, 1); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 5)
