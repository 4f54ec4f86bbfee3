/*
 * Call getppid at a given rate, and print the number of calls and how long they took.
 * usage: bpf_load CALLS_PER_S SECONDS     (0: as fast as possible)
 * prints: calls p50_ns p99_ns p999_ns
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <x86intrin.h>

#define MOST 65536

static unsigned long histogram[MOST];

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int count, char **words)
{
	double rate = atof(words[1]), seconds = atof(words[2]);
	long long begin = now_ns(), end = begin + (long long)(seconds * 1e9), now = begin;
	unsigned long long first = __rdtsc(), before, took;
	unsigned long calls = 0, due, seen, i;
	double cycles_per_ns;

	while (now < end) {
		due = rate ? (unsigned long)((now - begin) / 1e9 * rate) : calls + 1000;
		for (; calls < due; calls++) {
			before = __rdtsc();
			syscall(SYS_getppid);
			took = __rdtsc() - before;
			histogram[took < MOST ? took : MOST - 1]++;
		}
		if (rate)
			usleep(500);
		now = now_ns();
	}
	cycles_per_ns = (double)(__rdtsc() - first) / (now_ns() - begin);
	printf("%lu", calls);
	for (int permille = 500; permille < 1000; permille = permille == 500 ? 990 : permille == 990 ? 999 : 1000) {
		for (i = seen = 0; i < MOST && (seen += histogram[i]) * 1000 < calls * permille; i++)
			;
		printf(" %.0f", i / cycles_per_ns);
	}
	printf("\n");
	return 0;
}
