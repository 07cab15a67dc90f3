// cflags: -pthread
/* Four threads, each with a stretch of private memory that it changes in every way there is: written, thrown away, moved
 * by mremap in whole and in part, cut off and grown again, protected, read by the kernel, seen by forked children. Every
 * page says what it must be; what a thread expects of it is kept aside. */
#include "victim.h"

enum { THREADS = 4, PAGE = 4096, PAGES = 2048, WORDS = PAGE / 8 };

struct stretch {
    uint64_t *base;
    uint32_t tag[PAGES]; /* 0: the page is zero */
    uint32_t last;
    uint64_t random;
    _Atomic long steps;
    pthread_t thread;
    int pipe[2];
};

static struct stretch stretches[THREADS];
static _Atomic int over;

static uint64_t next(struct stretch *s) {
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static uint64_t word(const struct stretch *s, int page, int at) {
    if (s->tag[page] == 0)
        return 0;
    uint64_t mixed = (uint64_t)(s - stretches + 1) << 56 ^ (uint64_t)page << 34 ^ (uint64_t)s->tag[page] << 10 ^ (uint64_t)at;
    return mixed * 0x9e3779b97f4a7c15ull | 1;
}

static uint64_t *at(const struct stretch *s, int page) { return s->base + (size_t)page * WORDS; }

static void put(struct stretch *s, int page) {
    s->tag[page] = ++s->last;
    for (int w = 0; w < WORDS; w++)
        at(s, page)[w] = word(s, page, w);
}

static void look(const struct stretch *s, int page, int step, const char *who) {
    for (int w = 0; w < WORDS; w += step)
        EXPECT(at(s, page)[w] == word(s, page, w), "%s: stretch %d page %d word %d: expected %#llx, got %#llx", who,
               (int)(s - stretches), page, w, (long long)word(s, page, w), (long long)at(s, page)[w]);
}

static void forget(struct stretch *s, int first, int count) {
    memset(s->tag + first, 0, (size_t)count * sizeof s->tag[0]);
}

/* An address range that is free but for what holds it. */
static void *place(size_t size) {
    void *found = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    MUST(found);
    return found;
}

/* Moves pages onto others. Several areas side by side may not be movable at once: then they are copied. */
static void move(void *to, void *from, size_t size, int flags) {
    flags |= MREMAP_MAYMOVE | MREMAP_FIXED;
    if (mremap(from, size, size, flags, to) == to)
        return;
    EXPECT(errno == EFAULT || errno == EINVAL, "mremap: %s", strerror(errno));
    MUST(mmap(to, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    memcpy(to, from, size);
    if (flags & MREMAP_DONTUNMAP)
        MUST(madvise(from, size, MADV_DONTNEED));
    else
        MUST(munmap(from, size));
}

static void child(struct stretch *s) {
    pid_t pid = fork();
    if (pid == 0) {
        for (int page = 0; page < PAGES; page++)
            look(s, page, 73, "child");
        put(s, (int)(next(s) % PAGES));
        for (int page = 0; page < PAGES; page += 7)
            look(s, page, 73, "child, later");
        _exit(0);
    }
    MUST(pid);
    int status;
    while (waitpid(pid, &status, 0) == -1)
        EXPECT(errno == EINTR, "waitpid: %s", strerror(errno));
    EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ended with %#x", status);
}

static void step(struct stretch *s) {
    int first = (int)(next(s) % PAGES), count = 1 + (int)(next(s) % 64);
    if (count > PAGES - first)
        count = PAGES - first;
    size_t size = (size_t)count * PAGE, all = (size_t)PAGES * PAGE;
    switch (next(s) % 40) {
    case 0:
        child(s);
        break;
    case 1:
    case 2:
        MUST(madvise(at(s, first), size, MADV_DONTNEED));
        forget(s, first, count);
        break;
    case 3: {
        void *to = place(all);
        move(to, s->base, all, 0);
        s->base = to;
        break;
    }
    case 4: {
        /* A part goes away and comes back; what stays in its place meanwhile is empty. */
        void *to = place(size);
        move(to, at(s, first), size, MREMAP_DONTUNMAP);
        EXPECT_EQ("a page that was moved away", *at(s, first), 0);
        move(at(s, first), to, size, 0);
        break;
    }
    case 5: {
        size_t rest = all - size;
        MUST(munmap((char *)s->base + rest, size));
        void *now = mremap(s->base, rest, all, MREMAP_MAYMOVE);
        if (now == MAP_FAILED) {
            EXPECT(errno == EFAULT, "mremap: %s", strerror(errno));
            now = place(all);
            MUST(mmap(now, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
            memcpy(now, s->base, rest);
            MUST(munmap(s->base, rest));
        }
        s->base = now;
        forget(s, PAGES - count, count);
        break;
    }
    case 6:
        MUST(mprotect(at(s, first), size, PROT_READ));
        look(s, first, 1, "protected");
        MUST(mprotect(at(s, first), size, PROT_READ | PROT_WRITE));
        break;
    case 7: {
        /* The kernel reads one page and writes another. */
        int to = (int)(next(s) % PAGES);
        EXPECT_EQ("bytes written", write(s->pipe[1], at(s, first), PAGE), PAGE);
        EXPECT_EQ("bytes read", read(s->pipe[0], at(s, to), PAGE), PAGE);
        for (int w = 0; w < WORDS; w++)
            EXPECT(at(s, to)[w] == word(s, first, w), "page %d word %d through the kernel", first, w);
        put(s, to);
        break;
    }
    case 8:
    case 9:
    case 10:
        for (int page = first; page < first + count; page++)
            put(s, page);
        break;
    default:
        look(s, first, 73, "page");
    }
    s->steps++;
}

static void *run(void *argument) {
    while (!over)
        step(argument);
    return NULL;
}

static void setup(void) {
    for (int n = 0; n < THREADS; n++) {
        struct stretch *s = &stretches[n];
        s->random = 88172645463325252ull + (uint64_t)n;
        s->base = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(s->base);
        MUST(pipe(s->pipe));
        for (int page = 0; page < PAGES; page++)
            put(s, page);
    }
    for (int n = 1; n < THREADS; n++)
        EXPECT_EQ("pthread_create", pthread_create(&stretches[n].thread, NULL, run, &stretches[n]), 0);
}

static void work(void) {
    while (!gone())
        for (int n = 0; n < 100; n++)
            step(&stretches[0]);
    over = 1;
    for (int n = 1; n < THREADS; n++)
        EXPECT_EQ("pthread_join", pthread_join(stretches[n].thread, NULL), 0);
}

static void check(void) {
    for (int n = 0; n < THREADS; n++) {
        EXPECT(stretches[n].steps > 0, "thread %d took %ld steps", n, (long)stretches[n].steps);
        for (int page = 0; page < PAGES; page++)
            look(&stretches[n], page, 1, "at the end");
    }
}

static void harm(int n) { at(&stretches[n % THREADS], 5 + n)[7] ^= 1; }

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 4)
