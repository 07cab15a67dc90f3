/* How a process calls itself: its name with hostile characters, its executable, argument and environment areas (one
 * rewritten in place, as servers do, one moved with PR_SET_MM), the auxiliary vector, the borders of its areas. */
#include "victim.h"
#include <sys/auxv.h>

extern char **environ;
static const char title[16] = "a) R 1 (b\n\tc";
static char cmdline[256], environment[4096], exe[512];
static unsigned char auxv[2048];
static size_t cmdline_length, environment_length, auxv_length;
static unsigned long long borders[60];
static char *moved;

static size_t read_bytes(const char *path, void *to, size_t size) { return slurp(path, to, size); }

/* Fields 26-28 and 45-51 of /proc/self/stat: code, stack, data, brk, arguments, environment. */
static void read_borders(unsigned long long *to) {
    char text[4096];
    slurp("/proc/self/stat", text, sizeof text);
    char *at = strrchr(text, ')') + 2;
    for (int field = 3; field <= 51 && *at; field++) {
        to[field] = strtoull(at, NULL, 10);
        at = strchr(at, ' ');
        if (!at)
            break;
        at++;
    }
}

/* All fields at once: the single ones need CAP_SYS_RESOURCE. */
static void move_environment(int start, int end) {
    unsigned long long f[60] = {0};
    read_borders(f);
    struct prctl_mm_map map = {
        .start_code = f[26], .end_code = f[27], .start_stack = f[28], .start_data = f[45], .end_data = f[46],
        .start_brk = f[47], .brk = (unsigned long)sbrk(0), .arg_start = f[48], .arg_end = f[49],
        .env_start = (unsigned long)moved + (unsigned)start, .env_end = (unsigned long)moved + (unsigned)end,
        .auxv = NULL, .auxv_size = 0, .exe_fd = (unsigned)-1,
    };
    MUST(prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0));
}

static void setup(void) {
    MUST(prctl(PR_SET_NAME, title));
    /* in place */
    size_t length = strlen(victim_argv[0]);
    memset(victim_argv[0], 'T', length);
    memcpy(victim_argv[0], "serving", length < 7 ? length : 7);
    /* the environment moved elsewhere */
    moved = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(moved + 100, "A=one\0B=two words\0C=\n", 22);
    move_environment(100, 122);
    cmdline_length = read_bytes("/proc/self/cmdline", cmdline, sizeof cmdline);
    environment_length = read_bytes("/proc/self/environ", environment, sizeof environment);
    EXPECT_EQ("environment set", environment_length, 22);
    auxv_length = read_bytes("/proc/self/auxv", auxv, sizeof auxv);
    read_borders(borders);
    ssize_t n = MUST(readlink("/proc/self/exe", exe, sizeof exe - 1));
    exe[n] = 0;
}

static void check(void) {
    static unsigned char now[4096];
    char name[16] = {0}, link[512];
    MUST(prctl(PR_GET_NAME, name));
    EXPECT_MEM("name", name, title, 16);
    EXPECT_EQ("length of the command line", read_bytes("/proc/self/cmdline", now, sizeof now), cmdline_length);
    EXPECT_MEM("command line", now, cmdline, cmdline_length);
    EXPECT_EQ("length of the environment", read_bytes("/proc/self/environ", now, sizeof now), environment_length);
    EXPECT_MEM("environment", now, environment, environment_length);
    EXPECT_EQ("length of the auxiliary vector", read_bytes("/proc/self/auxv", now, sizeof now), auxv_length);
    EXPECT_MEM("auxiliary vector", now, auxv, auxv_length);
    ssize_t n = MUST(readlink("/proc/self/exe", link, sizeof link - 1));
    link[n] = 0;
    EXPECT_STR("executable", link, exe);
    unsigned long long fields[60] = {0};
    static const int compared[] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51};
    read_borders(fields);
    for (size_t i = 0; i < sizeof compared / sizeof *compared; i++) {
        char text[64];
        snprintf(text, sizeof text, "field %d of /proc/self/stat", compared[i]);
        EXPECT_EQ(text, fields[compared[i]], borders[compared[i]]);
    }
    /* the vdso is where libc was told it is, and works */
    const unsigned char *vdso = (const void *)getauxval(AT_SYSINFO_EHDR);
    EXPECT(vdso && memcmp(vdso, "\177ELF", 4) == 0, "no vdso at %p", (const void *)vdso);
    long long a = now_ns(CLOCK_MONOTONIC);
    struct timespec t;
    MUST(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t));
    EXPECT(t.tv_sec * 1000000000LL + t.tv_nsec - a >= 0, "vdso's clock is ahead of the kernel's");
    EXPECT(t.tv_sec * 1000000000LL + t.tv_nsec - a < 5000000000LL, "vdso's clock is behind the kernel's");
    struct stat by_link, by_path;
    MUST(stat("/proc/self/exe", &by_link));
    MUST(stat(exe, &by_path));
    EXPECT_EQ("inode of the executable", by_link.st_ino, by_path.st_ino);
}

static void harm(int n) {
    switch (n) {
    case 0: prctl(PR_SET_NAME, "other"); break;
    case 1: victim_argv[0][0] = 'x'; break;
    case 2: moved[101] = 'x'; break;
    case 3: move_environment(100, 120); break;
    case 4: borders[47]++; break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 5)
