// cflags: -pthread
// variants: full
/* Credentials: supplementary groups, the five capability sets, securebits, no_new_privs; in the full variant user and
 * group ids with all four of each different, and a thread with others (raw system calls change one thread only). As
 * /proc says them, word by word, and by their effect. */
#include "victim.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>

static char before[2][2048];
static _Atomic pid_t tids[2];
static _Atomic int thread_up, go, thread_done;
static pthread_t thread;
static int securebits, harmed = -1;

static void describe(pid_t tid, char *to, size_t size) {
    static const char *keys[] = {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:"};
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    slurp(path, text, sizeof text);
    *to = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (strncmp(line, keys[i], strlen(keys[i])) == 0) {
                strncat(to, line, size - strlen(to) - 2);
                strcat(to, "\n");
            }
}

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    MUST(syscall(SYS_capset, &head, data));
}

static uint64_t bits(const int *list) {
    uint64_t set = 0;
    for (; *list >= 0; list++)
        set |= 1ull << *list;
    return set;
}

/* What stays: enough to be dumped as root's own, and to write the verdict. */
static const int permitted[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE,
                                CAP_SYS_PTRACE, CAP_SYS_CHROOT, CAP_MKNOD, CAP_AUDIT_WRITE, CAP_SETPCAP, -1};
static const int effective[] = {CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, -1};
static const int inheritable[] = {CAP_CHOWN, CAP_KILL, CAP_NET_BIND_SERVICE, -1};

static void *run(void *unused) {
    (void)unused;
    gid_t groups[] = {9};
    if (FULL) {
        MUST(syscall(SYS_setgroups, 1, groups));
        MUST(syscall(SYS_setresgid, 21, 22, 23));
        MUST(syscall(SYS_setresuid, 31, 32, 33));
    }
    tids[1] = (pid_t)syscall(SYS_gettid);
    atomic_store(&thread_up, 1);
    await_flag("go", &go, 1);
    if (FULL && harmed == 5)
        set_caps(0, 0, 0);
    if (FULL) {
        uid_t r, e, s;
        gid_t list[4];
        MUST(syscall(SYS_getresuid, &r, &e, &s));
        EXPECT(r == 31 && e == 32 && s == 33, "thread: uids: expected 31 32 33, got %u %u %u", r, e, s);
        EXPECT_EQ("thread: groups", syscall(SYS_getgroups, 4, list), 1);
        EXPECT_EQ("thread: group", list[0], 9);
    }
    char now[2048];
    describe(tids[1], now, sizeof now);
    EXPECT_STR("thread's credentials", now, before[1]);
    atomic_store(&thread_done, 1);
    return NULL;
}

static void setup(void) {
    if (geteuid() != 0)
        skip("needs root");
    MUST(chmod(".", 0777));
    gid_t groups[] = {5, 17, 1000, 70000};
    MUST(setgroups(4, groups));
    static const int dropped[] = {CAP_SYS_MODULE, CAP_SYS_TIME, CAP_SYS_BOOT, CAP_MAC_ADMIN, CAP_NET_RAW, CAP_BPF, -1};
    for (const int *cap = dropped; *cap >= 0; cap++)
        MUST(prctl(PR_CAPBSET_DROP, *cap));
    securebits = SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS;
    MUST(prctl(PR_SET_SECUREBITS, securebits));
    if (FULL) {
        MUST(setresgid(1, 2, 3));
        MUST(setresuid(1000, 1001, 1002));
        setfsgid(4);
        setfsuid(1003);
    }
    set_caps(bits(effective), bits(permitted), bits(inheritable));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    tids[0] = (pid_t)syscall(SYS_gettid);
    MUST0(pthread_create(&thread, NULL, run, NULL));
    await_flag("thread", &thread_up, 1);
    MUST(prctl(PR_SET_DUMPABLE, 1)); /* a change of ids takes it away from the whole process */
    describe(tids[0], before[0], sizeof before[0]);
    describe(tids[1], before[1], sizeof before[1]);
}

static void check(void) {
    char now[2048];
    describe(tids[0], now, sizeof now);
    EXPECT_STR("credentials", now, before[0]);
    EXPECT_EQ("securebits", MUST(prctl(PR_GET_SECUREBITS)), securebits);
    EXPECT_EQ("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    EXPECT_EQ("dumpable", prctl(PR_GET_DUMPABLE), 1);
    EXPECT_EQ("ambient CAP_CHOWN", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0), 1);
    gid_t groups[8];
    EXPECT_EQ("groups", getgroups(8, groups), 4);
    EXPECT_EQ("last group", groups[3], 70000);
    atomic_store(&go, 1);
    await_flag("thread", &thread_done, 1);
    MUST0(pthread_join(thread, NULL));
    /* effects: mount was dropped; sethostname too */
    EXPECT_ERRNO(syscall(SYS_sethostname, "x", 1), EPERM);
    int fd = (int)MUST(open("owned", O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    struct stat stat;
    MUST(fstat(fd, &stat));
    EXPECT_EQ("owner of a new file", stat.st_uid, FULL ? 1003 : 0);
    EXPECT_EQ("group of a new file", stat.st_gid, FULL ? 4 : 0);
    MUST(fchown(fd, 5, 5));
    close(fd);
}

static void harm(int n) {
    gid_t groups[] = {5, 17, 1000};
    harmed = n;
    switch (n) {
    case 0: MUST(syscall(SYS_setgroups, 3, groups)); break;
    case 1: set_caps(bits(effective) & ~(1ull << CAP_KILL), bits(permitted), bits(inheritable)); break;
    case 2: MUST(prctl(PR_CAPBSET_DROP, CAP_AUDIT_WRITE)); break;
    case 3: MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED)); break;
    case 4: MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = FULL ? 6 : 5)
