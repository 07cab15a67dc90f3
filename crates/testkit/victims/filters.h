/* Small seccomp filters. */
#ifndef FILTERS_H
#define FILTERS_H
#include "victim.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, (value))
#define IF_EQUAL(value, skip_if_not) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip_if_not))

UNUSED static long filter_install(const struct sock_filter *code, size_t count, unsigned flags) {
    struct sock_fprog program = {.len = (unsigned short)count, .filter = (struct sock_filter *)(uintptr_t)code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* The number behind a key of /proc/self/task/TID/status. */
UNUSED static int status_number(pid_t tid, const char *key) {
    char path[64], text[8192];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", tid);
    slurp(path, text, sizeof text);
    char *at = strstr(text, key);
    EXPECT(at, "%s has no %s", path, key);
    return atoi(at + strlen(key));
}

#endif
