/* A program whose memory makes sense at a single instant only, and which always checks it.
 *
 *   verifier MIB [PAUSE_US]
 *
 * Every page is stamped with its place, a sequence number and bytes that follow from both, and ends with a checksum. The
 * numbers that must be found are kept elsewhere: a page that is older or newer than the thread that wrote it is found.
 *
 * - 8 threads own an eighth of MIB each. In bursts, with PAUSE_US (1000) between them, each writes and checks pages at
 *   random, and at random makes areas, grows and moves them (mremap), drops pages of them (MADV_DONTNEED, MADV_FREE), asks
 *   for huge pages, makes them read-only for a while, unmaps them, forks a child that checks and overwrites its copy, and
 *   uses its stack deeply.
 * - Each thread writes its transaction's number to three pages in turn, A, B, C: at any instant A >= B >= C >= A - 1.
 *   The thread checks that they are what it wrote last, another thread reads them against the writing order.
 * - A second process with memory of its own answers the first over pipes: a token and the number on both sides, in a
 *   private page of each and in pages that both share, must agree.
 *
 * It prints "ready", and "FAIL what" as soon as something is wrong. On SIGUSR1 every thread and the second process check
 * all that they own, and a line tells the verdict: "checked N ok pages=P transactions=T tokens=H" or "checked N FAIL".
 * N counts the signals: it goes on in a restored copy.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WORDS (PAGE / 8)
#define THREADS 8
#define SLOTS 12
#define SLOT_PAGES 64
#define HUGE (2UL << 20)
#define HUGE_STEP 8
#define STACK (1 << 20)

static int failed;
static volatile sig_atomic_t asked;
static long pause_us = 1000;

static void fail(const char *format, ...)
{
	va_list arguments;

	flockfile(stdout);
	printf("FAIL ");
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
	funlockfile(stdout);
	__atomic_store_n(&failed, 1, __ATOMIC_SEQ_CST);
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void doze(long microseconds)
{
	struct timespec t = { microseconds / 1000000, microseconds % 1000000 * 1000 };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* --- pages -------------------------------------------------------------------------------------------------------- */

/* Number 0 is a page that was never written, or dropped: all zeros. */
static void stamp(void *page, uint64_t place, uint64_t number)
{
	volatile uint64_t *words = page;
	uint64_t state = (place + 1) * 0x9e3779b97f4a7c15ULL ^ number * 0xbf58476d1ce4e5b9ULL;
	uint64_t sum = place ^ number;

	words[0] = place;
	words[1] = number;
	for (int i = 2; i < WORDS - 1; i++) {
		words[i] = next(&state);
		sum = (sum << 1 | sum >> 63) ^ words[i];
	}
	words[WORDS - 1] = sum;
}

static int is_zero(const void *page)
{
	const uint64_t *words = page;

	for (int i = 0; i < WORDS; i++)
		if (words[i])
			return 0;
	return 1;
}

static int is_stamped(const void *page, uint64_t place, uint64_t number)
{
	const uint64_t *words = page;
	uint64_t state = (place + 1) * 0x9e3779b97f4a7c15ULL ^ number * 0xbf58476d1ce4e5b9ULL;
	uint64_t sum = place ^ number;

	if (words[0] != place || words[1] != number)
		return 0;
	for (int i = 2; i < WORDS - 1; i++) {
		if (words[i] != next(&state))
			return 0;
		sum = (sum << 1 | sum >> 63) ^ words[i];
	}
	return words[WORDS - 1] == sum;
}

static void check(const void *page, uint64_t place, uint64_t number, const char *what)
{
	const uint64_t *words = page;

	if (number ? is_stamped(page, place, number) : is_zero(page))
		return;
	fail("%s: page %p: place %llx number %llu wanted, found place %llx number %llu%s", what, page,
	     (unsigned long long)place, (unsigned long long)number, (unsigned long long)words[0],
	     (unsigned long long)words[1],
	     is_zero(page) ? ", all zeros" : is_stamped(page, words[0], words[1]) ? ", whole" : ", torn");
}

/* --- what a thread owns ------------------------------------------------------------------------------------------- */

struct slot {
	uint8_t *at;
	size_t pages;
	/* With MADV_FREE asked for: a page has its number or is all zeros, until it is written. */
	uint8_t freed[SLOT_PAGES];
	uint32_t number[SLOT_PAGES];
	uint64_t place;
	uint8_t *huge;
	uint32_t huge_number;
};

struct owner {
	int index;
	uint64_t state;
	uint8_t *pages;
	uint32_t *numbers;
	size_t count;
	struct slot slots[SLOTS];
	uint64_t places;
	/* Three pages far from each other. */
	uint64_t *transaction[3];
	uint64_t transactions;
	int done;
	uint64_t checked;
};

static struct owner owners[THREADS];

static void *map(size_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED) {
		fail("mmap of %zu bytes: %s", bytes, strerror(errno));
		exit(1);
	}
	return at;
}

static uint64_t place_of(const struct owner *o, size_t page)
{
	return (uint64_t)o->index << 40 | page;
}

static void check_page(struct owner *o, size_t page)
{
	check(o->pages + page * PAGE, place_of(o, page), o->numbers[page], "own");
	o->checked++;
}

static void check_slot(struct owner *o, struct slot *s)
{
	for (size_t i = 0; i < s->pages; i++) {
		uint8_t *page = s->at + i * PAGE;

		o->checked++;
		/* The kernel may take it between two looks, or in one: then it is zeros from now on. */
		if (s->freed[i] && (is_zero(page) || is_stamped(page, s->place + i, s->number[i]) || is_zero(page)))
			continue;
		check(page, s->place + i, s->number[i], s->freed[i] ? "freed" : "area");
	}
	for (size_t i = 0; s->huge && i < HUGE / PAGE; i++)
		check(s->huge + i * PAGE, s->place + i, i % HUGE_STEP ? 0 : s->huge_number, "huge");
}

static void check_all(struct owner *o)
{
	for (size_t i = 0; i < o->count; i++)
		check_page(o, i);
	for (int i = 0; i < SLOTS; i++)
		check_slot(o, &o->slots[i]);
}

static void check_transaction(struct owner *o)
{
	for (int i = 0; i < 3; i++) {
		uint64_t found = __atomic_load_n(o->transaction[i], __ATOMIC_SEQ_CST);

		if (found != o->transactions)
			fail("transaction: page %c of thread %d holds %llu, its thread wrote %llu", 'A' + i, o->index,
			     (unsigned long long)found, (unsigned long long)o->transactions);
	}
}

static void transact(struct owner *o)
{
	check_transaction(o);
	o->transactions++;
	for (int i = 0; i < 3; i++) {
		__atomic_store_n(o->transaction[i], o->transactions, __ATOMIC_SEQ_CST);
		if (next(&o->state) % 64 == 0)
			sched_yield();
	}
}

/* --- what a thread does ------------------------------------------------------------------------------------------- */

static void write_page(struct owner *o)
{
	size_t page = next(&o->state) % o->count;

	check_page(o, page);
	stamp(o->pages + page * PAGE, place_of(o, page), o->numbers[page] + 1);
	o->numbers[page]++;
}

static void write_slot(struct slot *s, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++) {
		stamp(s->at + i * PAGE, s->place + i, s->number[i] + 1);
		s->number[i]++;
		s->freed[i] = 0;
	}
}

static void make_slot(struct owner *o, struct slot *s)
{
	memset(s, 0, sizeof *s);
	s->place = 1ULL << 60 | (uint64_t)o->index << 40 | o->places;
	o->places += 1024;
	s->pages = 1 + next(&o->state) % (SLOT_PAGES / 2);
	s->at = map(s->pages * PAGE);
	write_slot(s, 0, s->pages);
}

static void drop_slot(struct owner *o, struct slot *s)
{
	check_slot(o, s);
	if (munmap(s->at, s->pages * PAGE))
		fail("munmap: %s", strerror(errno));
	if (s->huge && munmap(s->huge, HUGE))
		fail("munmap: %s", strerror(errno));
	memset(s, 0, sizeof *s);
}

static void resize_slot(struct owner *o, struct slot *s)
{
	size_t pages = 1 + next(&o->state) % SLOT_PAGES;
	uint8_t *to = NULL;
	void *moved;

	if (next(&o->state) % 2) {
		/* To a place that is certainly another. */
		to = map(pages * PAGE);
		moved = mremap(s->at, s->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to);
	} else {
		moved = mremap(s->at, s->pages * PAGE, pages * PAGE, MREMAP_MAYMOVE);
	}
	if (moved == MAP_FAILED) {
		/* What was made read-only in the middle is several areas, which are not moved together. */
		fail("mremap: %s", strerror(errno));
		return;
	}
	s->at = moved;
	for (size_t i = s->pages; i < SLOT_PAGES; i++)
		s->number[i] = s->freed[i] = 0;
	size_t before = s->pages;
	for (size_t i = pages; i < before; i++)
		s->number[i] = s->freed[i] = 0;
	s->pages = pages;
	check_slot(o, s);
	/* Half of what is new stays untouched: zeros. */
	if (pages > before)
		write_slot(s, before, before + (pages - before) / 2);
}

static void advise_slot(struct owner *o, struct slot *s)
{
	size_t from = next(&o->state) % s->pages;
	size_t count = 1 + next(&o->state) % (s->pages - from);
	int dropped = next(&o->state) % 2;

	check_slot(o, s);
	if (madvise(s->at + from * PAGE, count * PAGE, dropped ? MADV_DONTNEED : MADV_FREE))
		fail("madvise: %s", strerror(errno));
	for (size_t i = from; i < from + count; i++) {
		if (dropped)
			s->number[i] = s->freed[i] = 0;
		else
			s->freed[i] = 1;
	}
}

static void huge_slot(struct owner *o, struct slot *s)
{
	if (s->huge) {
		check_slot(o, s);
		/* The pages between stay zeros, and may be split off a huge page. */
		madvise(s->huge, HUGE, next(&o->state) % 2 ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	} else {
		uint8_t *at = map(2 * HUGE);
		uint8_t *aligned = (uint8_t *)(((uintptr_t)at + HUGE - 1) & ~(HUGE - 1));

		if (aligned > at)
			munmap(at, aligned - at);
		munmap(aligned + HUGE, at + HUGE - aligned);
		madvise(aligned, HUGE, MADV_HUGEPAGE);
		s->huge = aligned;
	}
	s->huge_number++;
	for (size_t i = 0; i < HUGE / PAGE; i += HUGE_STEP)
		stamp(s->huge + i * PAGE, s->place + i, s->huge_number);
}

static void protect_slot(struct owner *o, struct slot *s)
{
	if (mprotect(s->at, s->pages * PAGE, PROT_READ))
		fail("mprotect: %s", strerror(errno));
	check_slot(o, s);
	doze(next(&o->state) % 2000);
	check_slot(o, s);
	if (mprotect(s->at, s->pages * PAGE, PROT_READ | PROT_WRITE))
		fail("mprotect: %s", strerror(errno));
}

/* The child is a copy of one instant: all that its only thread owns must be as it is here. */
static void fork_child(struct owner *o)
{
	pid_t child = fork();
	int status;

	if (child < 0) {
		fail("fork: %s", strerror(errno));
		return;
	}
	if (!child) {
		__atomic_store_n(&failed, 0, __ATOMIC_SEQ_CST);
		check_transaction(o);
		for (int i = 0; i < 32; i++)
			write_page(o);
		doze(next(&o->state) % 20000);
		for (int i = 0; i < SLOTS; i++)
			check_slot(o, &o->slots[i]);
		for (int i = 0; i < 32; i++)
			check_page(o, next(&o->state) % o->count);
		_exit(__atomic_load_n(&failed, __ATOMIC_SEQ_CST) ? 3 : 0);
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR) {
			fail("waitpid: %s", strerror(errno));
			return;
		}
	if (status)
		fail("the child of thread %d ended with %x", o->index, status);
}

/* Every frame is stamped on the way down and checked on the way up. */
static __attribute__((noinline)) void deep(uint64_t place, int depth)
{
	uint8_t frame[PAGE] __attribute__((aligned(16)));

	stamp(frame, place, depth);
	__asm__ volatile("" : : "r"(frame) : "memory");
	if (depth > 1)
		deep(place, depth - 1);
	else
		doze(500);
	check(frame, place, depth, "stack");
}

static void act(struct owner *o)
{
	struct slot *s = &o->slots[next(&o->state) % SLOTS];

	for (int i = 0; i < 4; i++)
		write_page(o);
	for (int i = 0; i < 4; i++)
		check_page(o, next(&o->state) % o->count);
	transact(o);
	if (!s->pages) {
		make_slot(o, s);
		return;
	}
	switch (next(&o->state) % 24) {
	case 0:
	case 1:
		drop_slot(o, s);
		break;
	case 2:
	case 3:
	case 4:
		resize_slot(o, s);
		break;
	case 5:
	case 6:
	case 7:
		advise_slot(o, s);
		break;
	case 8:
		/* In two of them only: a huge page is as large as many of the others. */
		s = &o->slots[next(&o->state) % 2];
		if (s->pages)
			huge_slot(o, s);
		break;
	case 9:
		protect_slot(o, s);
		break;
	case 10:
		if (next(&o->state) % 4 == 0)
			fork_child(o);
		break;
	case 11:
		deep(2ULL << 60 | o->index, 8 + next(&o->state) % 160);
		break;
	default:
		check_slot(o, s);
		write_slot(s, 0, s->pages);
	}
}

static void *run(void *argument)
{
	struct owner *o = argument;

	for (;;) {
		int want = asked;

		if (o->done != want) {
			check_all(o);
			check_transaction(o);
			__atomic_store_n(&o->done, want, __ATOMIC_SEQ_CST);
		}
		act(o);
		doze(pause_us);
	}
	return NULL;
}

/* Reads each thread's three pages against the order in which they are written. */
static void *watch(void *argument)
{
	for (;;) {
		for (int i = 0; i < THREADS; i++) {
			uint64_t c = __atomic_load_n(owners[i].transaction[2], __ATOMIC_SEQ_CST);
			uint64_t b = __atomic_load_n(owners[i].transaction[1], __ATOMIC_SEQ_CST);
			uint64_t a = __atomic_load_n(owners[i].transaction[0], __ATOMIC_SEQ_CST);

			if (c > b || b > a)
				fail("transaction of thread %d: A %llu, B %llu, C %llu", i, (unsigned long long)a,
				     (unsigned long long)b, (unsigned long long)c);
		}
		doze(pause_us);
	}
	return argument;
}

/* --- the second process ------------------------------------------------------------------------------------------- */

struct token {
	uint64_t number;
	uint64_t check;
	uint64_t wrong;
};

static volatile uint64_t *shared;

static int whole(int fd, void *data, size_t size, int out)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = out ? write(fd, (char *)data + done, size - done) : read(fd, (char *)data + done, size - done);

		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return 0;
		if (n > 0)
			done += n;
	}
	return 1;
}

static void partner(int from, int to)
{
	struct owner *o = calloc(1, sizeof *o);
	uint64_t *private = map(PAGE);
	uint64_t number = 0;

	o->index = THREADS;
	o->state = 77;
	o->count = 512;
	o->pages = map(o->count * PAGE);
	o->numbers = map(o->count * sizeof *o->numbers);
	for (;;) {
		struct token t;

		if (!whole(from, &t, sizeof t, 0))
			exit(0);
		if (t.number != number + 1 || *private != number)
			fail("second process: token %llu, its page holds %llu, its thread %llu",
			     (unsigned long long)t.number, (unsigned long long)*private, (unsigned long long)number);
		if (shared[0] != t.number || shared[WORDS] != number)
			fail("second process: token %llu, shared pages hold %llu and %llu", (unsigned long long)t.number,
			     (unsigned long long)shared[0], (unsigned long long)shared[WORDS]);
		number = t.number;
		*private = number;
		shared[WORDS] = number;
		write_page(o);
		if (t.check)
			check_all(o);
		t.wrong = __atomic_load_n(&failed, __ATOMIC_SEQ_CST);
		if (!whole(to, &t, sizeof t, 1))
			exit(0);
	}
}

/* One token there and back; whether the second process has found something wrong. */
static uint64_t exchange(int to, int from, uint64_t *private, uint64_t *number, int check_it)
{
	struct token t = { *number + 1, check_it, 0 };
	struct pollfd ready = { from, POLLIN, 0 };

	if (*private != *number)
		fail("first process: its page holds %llu, its thread %llu", (unsigned long long)*private,
		     (unsigned long long)*number);
	*number = t.number;
	*private = t.number;
	shared[0] = t.number;
	if (!whole(to, &t, sizeof t, 1)) {
		fail("the second process is gone: %s", strerror(errno));
		return 1;
	}
	/* Short waits, many of them: a clock that jumps does not make them end. */
	for (int i = 0; i < 6000 && poll(&ready, 1, 10) <= 0; i++)
		;
	if (!ready.revents || !whole(from, &t, sizeof t, 0)) {
		fail("the second process does not answer token %llu", (unsigned long long)*number);
		exit(1);
	}
	if (t.number != *number || shared[WORDS] != *number)
		fail("first process: sent %llu, answered %llu, shared page %llu", (unsigned long long)*number,
		     (unsigned long long)t.number, (unsigned long long)shared[WORDS]);
	return t.wrong;
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static void on_signal(int number)
{
	(void)number;
	asked++;
}

static void start(void *(*body)(void *), void *argument, size_t stack)
{
	pthread_attr_t attributes;
	pthread_t id;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, stack);
	errno = pthread_create(&id, &attributes, body, argument);
	if (errno) {
		fail("a thread: %s", strerror(errno));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	size_t pages = (argc > 1 ? strtoull(argv[1], NULL, 10) : 32) << 20 >> 12;
	int there[2], back[2], told = 0;
	uint64_t number = 0, *private;
	sigset_t set;

	if (argc > 2)
		pause_us = atol(argv[2]);
	shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED || pipe(there) || pipe(back))
		return 1;
	signal(SIGPIPE, SIG_IGN);
	switch (fork()) {
	case -1:
		return 1;
	case 0:
		close(there[1]);
		close(back[0]);
		partner(there[0], back[1]);
	}
	close(there[0]);
	close(back[1]);
	private = map(PAGE);
	/* Only the first thread is interrupted. */
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	for (int i = 0; i < THREADS; i++) {
		struct owner *o = &owners[i];

		o->index = i;
		o->state = 0x9e3779b97f4a7c15ULL * (i + 1);
		o->count = pages / THREADS;
		o->pages = map(o->count * PAGE);
		o->numbers = map(o->count * sizeof *o->numbers);
		for (int k = 0; k < 3; k++)
			o->transaction[k] = map(16 * PAGE);
		/* One in sixteen is never written but by chance: zeros. */
		for (size_t p = 0; p < o->count; p++)
			if (p % 16) {
				stamp(o->pages + p * PAGE, place_of(o, p), 1);
				o->numbers[p] = 1;
			}
	}
	for (int i = 0; i < THREADS; i++)
		start(run, &owners[i], STACK);
	start(watch, NULL, 64 << 10);
	signal(SIGUSR1, on_signal);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	printf("ready\n");
	fflush(stdout);
	for (;;) {
		int want = asked;
		uint64_t checked = 0, transactions = 0, wrong;
		int done = 1;

		for (int i = 0; i < THREADS; i++) {
			done &= __atomic_load_n(&owners[i].done, __ATOMIC_SEQ_CST) == want;
			checked += owners[i].checked;
			transactions += owners[i].transactions;
		}
		wrong = exchange(there[1], back[0], private, &number, want != told && done);
		if (wrong && !failed)
			fail("the second process found something wrong");
		if (want != told && done) {
			flockfile(stdout);
			if (failed)
				printf("checked %d FAIL\n", want);
			else
				printf("checked %d ok pages=%llu transactions=%llu tokens=%llu\n", want,
				       (unsigned long long)checked, (unsigned long long)transactions,
				       (unsigned long long)number);
			fflush(stdout);
			funlockfile(stdout);
			told = want;
		}
		/* The first thread's stack grows like the others', and shrinks never. */
		if (number % 512 == 0)
			deep(3ULL << 60, 8 + number / 512 % 1024);
		doze(pause_us);
	}
}
