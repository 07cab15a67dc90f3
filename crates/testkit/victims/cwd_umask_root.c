// variants: full
/* Working directory, root directory and umask of processes: the leader in a directory of its own, a child in another
 * root, in the full variant two sharing theirs (CLONE_FS) and a working directory that was removed. */
#include "talk.h"

static pid_t in_root, sharing, removed;
static struct stat inner;
static char sharing_stack[65536];

static void expect_cwd(const char *expected) {
    char path[PATH_MAX];
    EXPECT(getcwd(path, sizeof path), "getcwd: %s", strerror(errno));
    EXPECT_STR("working directory", path, expected);
}

static int sharing_main(void *unused) {
    (void)unused;
    atomic_fetch_add(&talk->up, 1);
    talk_wait(1);
    MUST(chdir("deeper"));
    EXPECT_EQ("umask of the sharing process", umask(0111), 0123);
    atomic_store(&talk->done, 1);
    _exit(0);
}

static void in_root_main(void) {
    if (chroot("jail") == -1)
        skip("chroot: %s", strerror(errno));
    MUST(chdir("/inner"));
    umask(0007);
    strcpy(victim_dir, "/verdicts"); /* the only place this one can write to */
    atomic_fetch_add(&talk->up, 1);
    talk_wait(1);
    expect_cwd("/inner");
    struct stat stat_;
    MUST(stat("/inner", &stat_));
    EXPECT_EQ("inode of /inner", stat_.st_ino, inner.st_ino);
    EXPECT_ERRNO(access("/proc", F_OK), ENOENT);
    MUST(chdir("../.."));
    expect_cwd("/");
    EXPECT_EQ("umask in the other root", umask(0), 0007);
    _exit(0);
}

static void removed_main(void) {
    MUST(mkdir("removed", 0700));
    MUST(chdir("removed"));
    MUST(rmdir("../removed"));
    atomic_fetch_add(&talk->up, 1);
    talk_wait(1);
    char path[PATH_MAX];
    EXPECT_ERRNO(syscall(SYS_getcwd, path, sizeof path), ENOENT);
    struct stat stat_;
    MUST(stat(".", &stat_));
    EXPECT_EQ("names of the working directory", stat_.st_nlink, 0);
    _exit(0);
}

static void setup(void) {
    talk_init();
    MUST(mkdir("place", 0755));
    MUST(mkdir("place/deeper", 0755));
    MUST(mkdir("jail", 0755));
    MUST(mkdir("jail/inner", 0755));
    MUST(mkdir("jail/verdicts", 0755));
    MUST(stat("jail/inner", &inner));
    in_root = (pid_t)MUST(fork());
    if (in_root == 0)
        in_root_main();
    if (FULL) {
        removed = (pid_t)MUST(fork());
        if (removed == 0)
            removed_main();
    }
    MUST(chdir("place"));
    umask(0123);
    if (FULL)
        sharing = (pid_t)MUST(clone(sharing_main, sharing_stack + sizeof sharing_stack, CLONE_FS | SIGCHLD, NULL));
    await_flag("children", &talk->up, FULL ? 3 : 1);
}

static void check(void) {
    char expected[PATH_MAX];
    victim_path(expected, sizeof expected, "place");
    expect_cwd(expected);
    EXPECT_EQ("umask", umask(0123), 0123);
    atomic_store(&talk->stage, 1);
    reap_ok("process in another root", in_root);
    if (FULL) {
        reap_ok("process that shares", sharing);
        victim_path(expected, sizeof expected, "place/deeper");
        expect_cwd(expected);
        EXPECT_EQ("umask set by the sharing process", umask(0), 0111);
        reap_ok("process in a removed directory", removed);
    }
}

static void harm(int n) {
    if (n == 0)
        MUST(chdir(".."));
    if (n == 1)
        umask(0);
    if (n == 3)
        MUST(unshare(CLONE_FS));
    if (n == 2)
        kill(in_root, SIGKILL);
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 4 : 3)
