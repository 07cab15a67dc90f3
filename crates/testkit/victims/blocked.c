// cflags: -pthread
// variants: full
/* One thread each in a system call that waits. Those without a limit must not return before they are woken, and then with
 * the right result; those with a limit must not return before it is over. Where the kernel goes on by itself after a stop
 * (read, accept, wait, futex, ...), nobody may see EINTR. Where signal(7) says a stop may end the call (epoll_wait,
 * sigtimedwait, a receive with a timeout, ...) and for calls with a remaining time, EINTR counts as lost in the full
 * variant only. */
#include "victim.h"
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

/* How long the calls with a limit wait. */
#define LIMIT_NS 1200000000LL
static const struct timespec limit = {LIMIT_NS / 1000000000, LIMIT_NS % 1000000000};

enum {
    READ_PIPE, WRITE_PIPE, READ_EVENTFD, ACCEPT, RECV, WAITPID, FUTEX, POLL, EPOLL, SELECT, PAUSE_LIKE, SIGWAIT, OPEN_FIFO,
    LOCK, FLOCK, COND, /* woken */
    NANOSLEEP, CLOCK_NANOSLEEP, FUTEX_TIMED, POLL_TIMED, EPOLL_TIMED, SELECT_TIMED, SIGTIMEDWAIT, RECV_TIMED,
    ABSOLUTE, COND_TIMED, COUNT
};
static const char *names[COUNT] = {
    "read of an empty pipe", "write to a full pipe", "read of an eventfd", "accept", "recv", "waitpid", "futex wait",
    "poll", "epoll_wait", "select", "sigsuspend", "sigwaitinfo", "open of a fifo", "fcntl lock", "flock",
    "condition variable",
    "nanosleep", "clock_nanosleep on a relative time", "futex wait with a limit", "poll with a limit", "epoll_wait with a limit", "select with a limit",
    "sigtimedwait", "recv with a limit", "clock_nanosleep until a time", "condition variable with a limit",
};
/* A stop may end these with EINTR: signal(7), and the calls with a restart block. */
static bool may_be_interrupted(int n) {
    if (FULL)
        return false;
    switch (n) {
    case POLL: case EPOLL: case SIGWAIT: case NANOSLEEP: case CLOCK_NANOSLEEP: case FUTEX_TIMED: case POLL_TIMED: case EPOLL_TIMED:
    case SELECT_TIMED: case SIGTIMEDWAIT: case RECV_TIMED: case PAUSE_LIKE:
        return true;
    }
    return false;
}

static pthread_t threads[COUNT];
static _Atomic pid_t tids[COUNT];
static _Atomic int done[COUNT], up;
static long result[COUNT];
static int error[COUNT];
static long long started[COUNT], ended[COUNT];
static int idle_pipe[2], full_pipe[2], event, listener, pair[2], timed_pair[2], poll_pipe[2], select_pipe[2], epoll, epoll_event,
    quiet_pipe[2], quiet_epoll, locked_fd, flocked, write_size;
static pid_t waited, lock_holder;
static _Atomic int futex_word, quiet_futex, *lock_state;
static _Atomic int woken_by_signal;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER, timed_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER, timed_condition = PTHREAD_COND_INITIALIZER;
static bool condition_met;

/* A restore may give the monotonic clock an offset, so that it does not see the time away; the wall clock has none. */
static clockid_t clock_of(int n) { return n == COND_TIMED ? CLOCK_REALTIME : CLOCK_MONOTONIC; }

static void on_signal(int signal) {
    (void)signal;
    woken_by_signal++;
}

static long call(int n) {
    char bytes[64];
    int status;
    sigset_t set;
    siginfo_t info;
    struct epoll_event events[4];
    fd_set readable;
    struct timespec until;
    sigemptyset(&set);
    switch (n) {
    case READ_PIPE: return read(idle_pipe[0], bytes, sizeof bytes);
    case WRITE_PIPE: return write(full_pipe[1], "0123456789", 10);
    case READ_EVENTFD: { uint64_t v; long r = read(event, &v, 8); return r == 8 ? (long)v : r; }
    case ACCEPT: return accept(listener, NULL, NULL) >= 0 ? 1 : -1;
    case RECV: return recv(pair[0], bytes, sizeof bytes, 0);
    case WAITPID: { long r = waitpid(waited, &status, 0); return r == waited ? WEXITSTATUS(status) : -1; }
    case FUTEX: return syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    case POLL: { struct pollfd p = {poll_pipe[0], POLLIN, 0}; return poll(&p, 1, -1); }
    case EPOLL: { long r = epoll_wait(epoll, events, 4, -1); return r == 1 ? (long)events[0].data.u64 : r; }
    case SELECT: FD_ZERO(&readable); FD_SET(select_pipe[0], &readable); return select(select_pipe[0] + 1, &readable, NULL, NULL, NULL);
    case PAUSE_LIKE: sigfillset(&set); sigdelset(&set, SIGUSR1); return sigsuspend(&set);
    case SIGWAIT: sigaddset(&set, SIGUSR2); { long r = sigwaitinfo(&set, &info); return r == SIGUSR2 ? info.si_value.sival_int : r; }
    case OPEN_FIFO: return open("fifo", O_RDONLY) >= 0 ? 1 : -1;
    case LOCK: { struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10}; return fcntl(locked_fd, F_SETLKW, &l); }
    case FLOCK: { int fd = open("flocked", O_RDWR); return flock(fd, LOCK_EX); }
    case COND:
        pthread_mutex_lock(&mutex);
        while (!condition_met)
            pthread_cond_wait(&condition, &mutex);
        pthread_mutex_unlock(&mutex);
        return 0;
    case NANOSLEEP: return syscall(SYS_nanosleep, &limit, NULL);
    case CLOCK_NANOSLEEP: return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &limit, NULL);
    case FUTEX_TIMED: return syscall(SYS_futex, &quiet_futex, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);
    case POLL_TIMED: { struct pollfd p = {quiet_pipe[0], POLLIN, 0}; return poll(&p, 1, LIMIT_NS / 1000000); }
    case EPOLL_TIMED: return epoll_wait(quiet_epoll, events, 4, LIMIT_NS / 1000000);
    case SELECT_TIMED: {
        struct timeval t = {limit.tv_sec, limit.tv_nsec / 1000};
        FD_ZERO(&readable);
        FD_SET(quiet_pipe[0], &readable);
        return select(quiet_pipe[0] + 1, &readable, NULL, NULL, &t);
    }
    case SIGTIMEDWAIT: sigaddset(&set, 45); return sigtimedwait(&set, &info, &limit);
    case RECV_TIMED: return recv(timed_pair[0], bytes, sizeof bytes, 0);
    case ABSOLUTE:
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += limit.tv_nsec;
        until.tv_sec += limit.tv_sec + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        return syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    case COND_TIMED:
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += limit.tv_nsec;
        until.tv_sec += limit.tv_sec + until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_mutex_lock(&timed_mutex);
        int answer;
        do
            answer = pthread_cond_timedwait(&timed_condition, &timed_mutex, &until);
        while (answer == 0);
        pthread_mutex_unlock(&timed_mutex);
        errno = answer;
        return -1;
    }
    return -2;
}

static void *run(void *argument) {
    int n = (int)(intptr_t)argument;
    tids[n] = (pid_t)syscall(SYS_gettid);
    started[n] = now_ns(clock_of(n));
    atomic_fetch_add(&up, 1);
    for (;;) {
        errno = 0;
        result[n] = call(n);
        error[n] = errno;
        ended[n] = now_ns(clock_of(n));
        /* an end that is allowed: waits again, where waiting again is the same */
        if (result[n] == -1 && error[n] == EINTR && may_be_interrupted(n) && n < NANOSLEEP && !(n == PAUSE_LIKE && woken_by_signal))
            continue;
        break;
    }
    atomic_store(&done[n], 1);
    return NULL;
}

/* In poll, read and the like, as the kernel names it: not before, on its way. */
static void wait_asleep(int n) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tids[n]);
    for (int i = 0; i < 5000; i++) {
        slurp(path, text, sizeof text);
        if (strrchr(text, ')')[2] == 'S')
            return;
        sleep_ns(1000000);
    }
    fail("%s: does not block", names[n]);
}

static void setup(void) {
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = on_signal};
    MUST(sigaction(SIGUSR1, &action, NULL));
    sigset_t block;
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    sigaddset(&block, SIGUSR2);
    sigaddset(&block, 45);
    MUST(sigprocmask(SIG_BLOCK, &block, NULL));
    lock_state = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(pipe(idle_pipe));
    MUST(pipe(full_pipe));
    MUST(pipe(poll_pipe));
    MUST(pipe(select_pipe));
    MUST(pipe(quiet_pipe));
    write_size = (int)MUST(fcntl(full_pipe[1], F_GETPIPE_SZ));
    char *fill = calloc(1, (size_t)write_size);
    EXPECT_EQ("write", write(full_pipe[1], fill, (size_t)write_size), write_size);
    free(fill);
    event = (int)MUST(eventfd(0, 0));
    epoll_event = (int)MUST(eventfd(0, 0));
    epoll = (int)MUST(epoll_create1(0));
    quiet_epoll = (int)MUST(epoll_create1(0));
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = 987};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, epoll_event, &e));
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "listen"};
    listener = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 5));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, timed_pair));
    struct timeval t = {limit.tv_sec, limit.tv_nsec / 1000};
    MUST(setsockopt(timed_pair[0], SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t));
    MUST(mkfifo("fifo", 0600));
    locked_fd = (int)MUST(open("locked", O_RDWR | O_CREAT, 0600));
    flocked = (int)MUST(open("flocked", O_RDWR | O_CREAT, 0600));
    waited = (pid_t)MUST(fork());
    if (waited == 0) {
        while (atomic_load(lock_state) < 3)
            sleep_ns(2000000);
        _exit(44);
    }
    lock_holder = (pid_t)MUST(fork());
    if (lock_holder == 0) {
        int fd = (int)MUST(open("locked", O_RDWR));
        int other = (int)MUST(open("flocked", O_RDWR));
        close(locked_fd);
        close(flocked);
        struct flock l = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 10};
        MUST(fcntl(fd, F_SETLK, &l));
        MUST(flock(other, LOCK_EX));
        atomic_store(lock_state, 1);
        while (atomic_load(lock_state) < 2)
            sleep_ns(2000000);
        close(fd);
        close(other);
        while (atomic_load(lock_state) < 4)
            sleep_ns(2000000);
        _exit(0);
    }
    close(flocked);
    await_flag("lock holder", lock_state, 1);
    for (int n = 0; n < COUNT; n++)
        MUST0(pthread_create(&threads[n], NULL, run, (void *)(intptr_t)n));
    await_flag("threads", &up, COUNT);
    for (int n = 0; n < COUNT; n++)
        wait_asleep(n);
}

static void expect_woken(int n, long wanted) {
    await_flag(names[n], &done[n], 1);
    EXPECT(result[n] == wanted, "%s: expected %ld, got %ld, errno %d (%s)", names[n], wanted, result[n], error[n], strerror(error[n]));
}

static void expect_timed(int n, long wanted, int wanted_error) {
    await_flag(names[n], &done[n], 1);
    if (may_be_interrupted(n) && result[n] == -1 && error[n] == EINTR)
        return;
    EXPECT(result[n] == wanted && (wanted != -1 || error[n] == wanted_error), "%s: expected %ld errno %d, got %ld errno %d (%s)",
           names[n], wanted, wanted_error, result[n], error[n], strerror(error[n]));
    /* poll's time is in whole milliseconds, select's in microseconds */
    EXPECT(ended[n] - started[n] >= LIMIT_NS - 2000000, "%s: returned after %lld ns of %lld", names[n], ended[n] - started[n], LIMIT_NS);
    EXPECT(ended[n] - started[n] < LIMIT_NS + 60000000000LL, "%s: returned only after %lld ns", names[n], ended[n] - started[n]);
}

static void wake(int n) {
    uint64_t one = 5;
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "listen"};
    int fd;
    switch (n) {
    case READ_PIPE: MUST(write(idle_pipe[1], "hello", 5)); break;
    case WRITE_PIPE: { char *space = malloc((size_t)write_size); MUST(read(full_pipe[0], space, (size_t)write_size)); free(space); } break;
    case READ_EVENTFD: MUST(write(event, &one, 8)); break;
    case ACCEPT: fd = (int)MUST(socket(AF_UNIX, SOCK_STREAM, 0)); MUST(connect(fd, (struct sockaddr *)&address, sizeof address)); close(fd); break;
    case RECV: MUST(send(pair[1], "sent", 4, 0)); break;
    case WAITPID: atomic_store(lock_state, 3); break;
    case FUTEX: futex_word = 1; MUST(syscall(SYS_futex, &futex_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0)); break;
    case POLL: MUST(write(poll_pipe[1], "x", 1)); break;
    case EPOLL: MUST(write(epoll_event, &one, 8)); break;
    case SELECT: MUST(write(select_pipe[1], "x", 1)); break;
    case PAUSE_LIKE: MUST(syscall(SYS_tgkill, getpid(), tids[n], SIGUSR1)); break;
    case SIGWAIT: {
        siginfo_t info = {.si_code = SI_QUEUE};
        info.si_value.sival_int = 321;
        MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tids[n], SIGUSR2, &info));
    } break;
    case OPEN_FIFO: fd = (int)MUST(open("fifo", O_WRONLY)); close(fd); break;
    case LOCK: case FLOCK: if (*lock_state < 2) atomic_store(lock_state, 2); break;
    case COND: MUST0(pthread_mutex_lock(&mutex)); condition_met = true; pthread_cond_signal(&condition); pthread_mutex_unlock(&mutex); break;
    }
}

static void check(void) {
    static const long wanted[NANOSLEEP] = {5, 10, 5, 1, 4, 44, 0, 1, 987, 1, -1, 321, 1, 0, 0, 0};
    for (int n = 0; n < NANOSLEEP; n++)
        EXPECT(!done[n], "%s: returned %ld errno %d (%s) before it was woken", names[n], result[n], error[n], strerror(error[n]));
    /* the locks first: their holder's stage comes before the waited child's */
    wake(LOCK);
    expect_woken(LOCK, 0);
    expect_woken(FLOCK, 0);
    for (int n = 0; n < NANOSLEEP; n++) {
        if (n == LOCK || n == FLOCK)
            continue;
        wake(n);
        expect_woken(n, wanted[n]);
    }
    EXPECT_EQ("signals to the suspended thread", woken_by_signal, 1);
    EXPECT_EQ("error of sigsuspend", error[PAUSE_LIKE], EINTR);
    expect_timed(NANOSLEEP, 0, 0);
    expect_timed(CLOCK_NANOSLEEP, 0, 0);
    expect_timed(FUTEX_TIMED, -1, ETIMEDOUT);
    expect_timed(POLL_TIMED, 0, 0);
    expect_timed(EPOLL_TIMED, 0, 0);
    expect_timed(SELECT_TIMED, 0, 0);
    expect_timed(SIGTIMEDWAIT, -1, EAGAIN);
    expect_timed(RECV_TIMED, -1, EAGAIN);
    expect_timed(ABSOLUTE, 0, 0);
    expect_timed(COND_TIMED, -1, ETIMEDOUT);
    for (int n = 0; n < COUNT; n++)
        MUST0(pthread_join(threads[n], NULL));
    atomic_store(lock_state, 4);
    reap_ok("lock holder", lock_holder);
}

static void harm(int n) {
    switch (n) {
    case 0: wake(READ_PIPE); await_flag("damage", &done[READ_PIPE], 1); break;
    case 1: wake(FUTEX); await_flag("damage", &done[FUTEX], 1); break;
    case 2: MUST(syscall(SYS_tgkill, getpid(), tids[PAUSE_LIKE], SIGUSR1)); await_flag("damage", &done[PAUSE_LIKE], 1); break;
    case 3: quiet_futex = 1; MUST(syscall(SYS_futex, &quiet_futex, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0)); break;
    case 4: MUST(write(quiet_pipe[1], "x", 1)); break;
    case 5: MUST(send(timed_pair[1], "x", 1, 0)); break;
    }
}

VICTIM(.setup = setup, .check = check, .harm = harm, .harms = 6)
