/* Holds memory that no compression makes smaller, and looks at the clock every millisecond.
 *
 *   ticker          waits for ever
 *   ticker MIB      fills MIB mebibytes, prints "ready", then a line at least every 10 ms:
 *                   the time of day in nanoseconds, and the longest gap between two looks since the
 *                   line before, in microseconds
 *
 * Gaps are measured with CLOCK_MONOTONIC. A line comes at once when the time of day has jumped by
 * more than 5 ms: the first look after a restore is told with the time it was made.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	size_t size = argc > 1 ? strtoull(argv[1], NULL, 10) << 20 : 0;
	uint64_t state = 0x9e3779b97f4a7c15ULL ^ (uint64_t)getpid();
	uint64_t *memory;
	int64_t looked, day, told, longest = 0;
	const struct timespec pause_for = { 0, 1000000 };

	while (argc < 2)
		pause();
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size / 8; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		memory[i] = state;
	}
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
			printf("%lld %lld\n", (long long)realtime, (long long)(longest / 1000));
			fflush(stdout);
			told = realtime;
			longest = 0;
		}
		day = realtime;
	}
}
