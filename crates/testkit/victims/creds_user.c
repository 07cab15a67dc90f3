/* The usual service: user 999, group 998, no capabilities, no_new_privs, core dumps allowed as of its own. */
#include "victim.h"
#include <grp.h>

static char before[4096], after[4096];

static void setup(void) {
    if (geteuid() != 0)
        skip("needs root");
    MUST(chmod(".", 0777));
    gid_t groups[] = {998, 44};
    MUST(setgroups(2, groups));
    MUST(setresgid(998, 998, 998));
    MUST(setresuid(999, 999, 999));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_DUMPABLE, 1));
}

static void describe(char *to) {
    static char text[8192];
    slurp("/proc/self/status", text, sizeof text);
    *to = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        if (strncmp(line, "Uid", 3) == 0 || strncmp(line, "Gid", 3) == 0 || strncmp(line, "Cap", 3) == 0 ||
            strncmp(line, "Groups", 6) == 0 || strncmp(line, "NoNew", 5) == 0)
            strcat(strcat(to, line), "\n");
}

static void work(void) {
    describe(before);
    wait_go();
}

static void check(void) {
    describe(after);
    EXPECT_STR("credentials", after, before);
    EXPECT_EQ("dumpable", prctl(PR_GET_DUMPABLE), 1);
    EXPECT_ERRNO(open("/proc/1/mem", O_RDONLY), EACCES);
    EXPECT_ERRNO(setuid(0), EPERM);
    int fd = (int)MUST(open("owned", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    struct stat stat;
    MUST(fstat(fd, &stat));
    EXPECT_EQ("owner of a new file", stat.st_uid, 999);
    EXPECT_EQ("group of a new file", stat.st_gid, 998);
    close(fd);
    /* its own /proc belongs to it: exec'd and changed credentials would make it root's */
    MUST(fstatat(AT_FDCWD, "/proc/self/maps", &stat, 0));
    EXPECT_EQ("owner of /proc/self/maps", stat.st_uid, 999);
}

static void harm(int n) {
    if (n == 0)
        prctl(PR_SET_DUMPABLE, 0);
    if (n == 1)
        strcat(before, "x");
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 2)
