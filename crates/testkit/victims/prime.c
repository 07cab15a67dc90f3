// variants: static
/* A long computation that never calls the kernel but to look for `go`: a running digest over the primes. Done again from
 * the beginning at the end, it must give the same. */
#include "victim.h"

struct state {
    uint64_t n, count, digest;
    double root_sum;
};

static struct state state = {.n = 1};

static void step(struct state *s) {
    s->n++;
    for (uint64_t d = 2; d * d <= s->n; d++)
        if (s->n % d == 0)
            return;
    s->count++;
    s->digest = s->digest * 6364136223846793005ull + s->n;
    s->root_sum = s->root_sum * 0.999 + 1.0 / (double)s->n;
}

static void work(void) {
    while (!gone())
        for (int i = 0; i < 2000; i++)
            step(&state);
}

static void setup(void) {
    for (int i = 0; i < 10000; i++)
        step(&state);
}

static void check(void) {
    struct state again = {.n = 1};
    while (again.n < state.n)
        step(&again);
    EXPECT_EQ("primes", state.count, again.count);
    EXPECT_EQ("digest", state.digest, again.digest);
    EXPECT(memcmp(&state.root_sum, &again.root_sum, sizeof(double)) == 0, "floating point sum: expected %.17g, got %.17g",
           again.root_sum, state.root_sum);
}

static void harm(int n) {
    if (n == 0)
        state.digest ^= 1;
    if (n == 1)
        state.n += 1000;
    if (n == 2)
        state.root_sum += 1e-9;
}

VICTIM(.setup = setup, .work = work, .check = check, .harm = harm, .harms = 3)
