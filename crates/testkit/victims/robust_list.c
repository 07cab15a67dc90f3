// cflags: -pthread
/* Robust mutexes: a thread and a child process hold one each; after `go` both end without unlocking, and the kernel must
 * hand the mutexes over, which it does by the robust list it was told of. And the word that the kernel clears when a
 * thread made by a bare clone ends. */
#include "victim.h"

struct shared {
    pthread_mutex_t of_child;
    _Atomic int child_up, go;
};
static struct shared *shared;
static pthread_mutex_t of_thread;
static pthread_t thread;
static _Atomic int up;
static pid_t child;
static _Atomic pid_t thread_tid;
static struct list { void *head; size_t length; } before[2];
static _Atomic int bare_word = 12345;
static _Atomic int bare_stop;
static char bare_stack[65536];
static int harmed = -1;

static void get_list(pid_t tid, struct list *list) {
    MUST(syscall(SYS_get_robust_list, tid, &list->head, &list->length));
}

static void make(pthread_mutex_t *mutex, bool between_processes) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    MUST0(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
    if (between_processes)
        MUST0(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
    MUST0(pthread_mutex_init(mutex, &attributes));
}

static void *run(void *unused) {
    (void)unused;
    thread_tid = (pid_t)syscall(SYS_gettid);
    MUST0(pthread_mutex_lock(&of_thread));
    atomic_store(&up, 1);
    while (!atomic_load(&shared->go))
        sleep_ns(2000000);
    if (harmed == 0)
        pthread_mutex_unlock(&of_thread);
    return NULL;
}

/* Runs without libc's knowledge: only raw system calls, no thread-local data of its own. */
static int bare(void *unused) {
    (void)unused;
    while (!atomic_load(&bare_stop)) {
        struct timespec nap = {0, 2000000};
        long answer;
        asm volatile("syscall" : "=a"(answer) : "a"(SYS_nanosleep), "D"(&nap), "S"(0) : "rcx", "r11", "memory");
    }
    asm volatile("syscall" : : "a"(SYS_exit), "D"(0) : "rcx", "r11", "memory");
    return 0;
}

static void setup(void) {
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    make(&shared->of_child, true);
    make(&of_thread, false);
    child = (pid_t)MUST(fork());
    if (child == 0) {
        MUST0(pthread_mutex_lock(&shared->of_child));
        atomic_store(&shared->child_up, 1);
        while (!atomic_load(&shared->go))
            sleep_ns(2000000);
        _exit(0);
    }
    await_flag("child", &shared->child_up, 1);
    MUST0(pthread_create(&thread, NULL, run, NULL));
    await_flag("thread", &up, 1);
    MUST(clone(bare, bare_stack + sizeof bare_stack - 16,
               CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID |
                   CLONE_SETTLS,
               NULL, NULL, __builtin_thread_pointer(), &bare_word));
    get_list(thread_tid, &before[0]);
    get_list(child, &before[1]);
}

static void check(void) {
    struct list now;
    get_list(thread_tid, &now);
    EXPECT(now.head == before[0].head && now.length == before[0].length, "thread's robust list: expected %p, got %p",
           before[0].head, now.head);
    get_list(child, &now);
    EXPECT(now.head == before[1].head && now.length == before[1].length, "child's robust list: expected %p, got %p",
           before[1].head, now.head);
    EXPECT_EQ("thread's mutex", pthread_mutex_trylock(&of_thread), EBUSY);
    EXPECT_EQ("child's mutex", pthread_mutex_trylock(&shared->of_child), EBUSY);
    EXPECT_EQ("word of the bare thread", bare_word, 12345);
    atomic_store(&shared->go, 1);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    EXPECT_EQ("taking over the thread's mutex", pthread_mutex_timedlock(&of_thread, &until), EOWNERDEAD);
    MUST0(pthread_mutex_consistent(&of_thread));
    EXPECT_EQ("taking over the child's mutex", pthread_mutex_timedlock(&shared->of_child, &until), EOWNERDEAD);
    MUST0(pthread_mutex_consistent(&shared->of_child));
    MUST0(pthread_mutex_unlock(&shared->of_child));
    MUST0(pthread_join(thread, NULL));
    reap_ok("child", child);
    atomic_store(&bare_stop, 1);
    for (;;) {
        int word = bare_word;
        if (word == 0)
            break;
        struct timespec limit = {5, 0};
        /* not private: the kernel wakes it so when the thread ends */
        if (syscall(SYS_futex, &bare_word, FUTEX_WAIT, word, &limit, NULL, 0) == -1 && errno == ETIMEDOUT)
            fail("the kernel did not clear the word of the bare thread, it is %d", bare_word);
    }
}

static void harm(int n) {
    harmed = n;
    if (n == 1)
        bare_word = 0;
    if (n == 2)
        before[1].head = NULL;
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 3)
