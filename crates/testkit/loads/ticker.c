/* Holds memory that no compression makes smaller, looks at the clock every millisecond, and has a load beside it.
 *
 *   ticker                   waits for ever
 *   ticker MIB               fills MIB mebibytes and ticks
 *   ticker MIB writes        beside it 8 threads write 1,000 pages a second together, anywhere in the memory
 *   ticker MIB heavy         beside it 8 threads write whole pages anywhere in the memory, 200,000,000 bytes a second
 *   ticker MIB threads N     beside it N threads that sleep
 *   ticker MIB processes N   beside it N processes that sleep
 *   ticker MIB files N       beside it N open files
 *   ticker MIB areas N       beside it N areas of one page each
 *
 * When all is made it prints "ready", then a line at least every 10 ms: the time of day in nanoseconds, the longest gap
 * between two looks since the line before in microseconds, and how many pages the load has written since. Gaps are
 * measured with CLOCK_MONOTONIC. A line comes at once when the time of day has jumped by more than 5 ms: the first look
 * after a restore is told with the time it was made. What cannot be made is told as "cannot: why", and is the end.
 *
 * On SIGUSR1 a thread reads every page of the memory once and prints "read BEGUN ENDED", times of day in nanoseconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define WRITERS 8

static uint8_t *memory;
static size_t size;
static uint64_t written;
static uint64_t per_second;
static int whole;
static sem_t asked;

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void cannot(const char *what)
{
	printf("cannot: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* One of the writers: as many pages a millisecond as are due. What a stop made it miss is made up for 10 ms at most,
 * so that no burst follows a long one. */
static void *writer(void *argument)
{
	uint64_t state = 0x2545f4914f6cdd1dULL * ((uintptr_t)argument + 1);
	int64_t begun = now(CLOCK_MONOTONIC);
	const int64_t each = 1000000000LL * WRITERS / per_second;
	int64_t due = begun + each * (int64_t)(uintptr_t)argument / WRITERS;

	for (;;) {
		const struct timespec pause_for = { 0, 1000000 };
		int64_t t = now(CLOCK_MONOTONIC);

		if (t - due > 10000000)
			due = t - 10000000;
		for (; due <= t; due += each) {
			uint8_t *page = memory + next(&state) % (size / PAGE) * PAGE;

			if (whole)
				for (int i = 0; i < PAGE / 8; i++)
					((volatile uint64_t *)page)[i] = state + i;
			else
				*(volatile uint64_t *)page = state;
			__atomic_add_fetch(&written, 1, __ATOMIC_RELAXED);
		}
		nanosleep(&pause_for, NULL);
	}
	return NULL;
}

static void *sleeper(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static void *reader(void *argument)
{
	for (;;) {
		uint64_t sum = 0;
		int64_t begun;

		while (sem_wait(&asked))
			;
		begun = now(CLOCK_REALTIME);
		for (size_t at = 0; at < size; at += PAGE)
			sum += *(volatile uint64_t *)(memory + at);
		printf("read %lld %lld\n", (long long)begun, (long long)now(CLOCK_REALTIME));
		fflush(stdout);
		(void)sum;
	}
	return argument;
}

static void on_signal(int number)
{
	(void)number;
	sem_post(&asked);
}

static void thread(void *(*body)(void *), uintptr_t number)
{
	pthread_attr_t attributes;
	pthread_t id;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 64 << 10);
	errno = pthread_create(&id, &attributes, body, (void *)number);
	if (errno)
		cannot("a thread");
	pthread_attr_destroy(&attributes);
}

static void files(const char *self, long count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		cannot("the limit of files");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		cannot("the limit of files");
	for (long i = 0; i < count; i++)
		if (open(self, O_RDONLY) < 0)
			cannot("an open file");
}

static void areas(long count)
{
	/* Every second page may not be touched: each is an area, and so is each between them. */
	uint8_t *all = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED)
		cannot("areas");
	for (long i = 0; i < count; i++)
		if (i % 2)
			all[i * PAGE] = 1;
		else if (mprotect(all + i * PAGE, PAGE, PROT_NONE))
			cannot("an area");
}

static void load(const char *self, const char *kind, long count)
{
	if (!strcmp(kind, "writes") || !strcmp(kind, "heavy")) {
		whole = !strcmp(kind, "heavy");
		per_second = whole ? 200000000 / PAGE : 1000;
		for (uintptr_t i = 0; i < WRITERS; i++)
			thread(writer, i);
	} else if (!strcmp(kind, "threads")) {
		for (long i = 0; i < count; i++)
			thread(sleeper, i);
	} else if (!strcmp(kind, "processes")) {
		for (long i = 0; i < count; i++) {
			pid_t child = fork();

			if (child < 0)
				cannot("a process");
			if (!child)
				sleeper(NULL);
		}
	} else if (!strcmp(kind, "files")) {
		files(self, count);
	} else if (!strcmp(kind, "areas")) {
		areas(count);
	} else if (strcmp(kind, "idle")) {
		errno = EINVAL;
		cannot(kind);
	}
}

int main(int argc, char **argv)
{
	uint64_t state = 0x9e3779b97f4a7c15ULL ^ (uint64_t)getpid();
	int64_t looked, day, told, longest = 0;
	const struct timespec pause_for = { 0, 1000000 };

	while (argc < 2)
		pause();
	size = strtoull(argv[1], NULL, 10) << 20;
	if (size) {
		memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			cannot("the memory");
		for (size_t i = 0; i < size / 8; i++)
			((uint64_t *)memory)[i] = next(&state);
	}
	load(argv[0], argc > 2 ? argv[2] : "idle", argc > 3 ? atol(argv[3]) : 0);
	sem_init(&asked, 0, 0);
	thread(reader, 0);
	signal(SIGUSR1, on_signal);
	printf("ready\n");
	fflush(stdout);
	looked = now(CLOCK_MONOTONIC);
	day = told = now(CLOCK_REALTIME);
	for (;;) {
		int64_t monotonic, realtime;

		nanosleep(&pause_for, NULL);
		monotonic = now(CLOCK_MONOTONIC);
		realtime = now(CLOCK_REALTIME);
		if (monotonic - looked > longest)
			longest = monotonic - looked;
		looked = monotonic;
		if (realtime - day > 5000000 || realtime - told >= 10000000) {
			printf("%lld %lld %llu\n", (long long)realtime, (long long)(longest / 1000),
			       (unsigned long long)__atomic_exchange_n(&written, 0, __ATOMIC_RELAXED));
			fflush(stdout);
			told = realtime;
			longest = 0;
		}
		day = realtime;
	}
}
