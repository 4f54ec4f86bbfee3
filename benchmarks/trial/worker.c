/*
 * Do units of one kind of work for a time or for ever; print how many, and the running time, as JSON.
 *
 * worker WORK KILOBYTES [--units N] [--seconds S] [--cpu N] [--event-us N [--event-cpu N]] [--threads N]
 *
 * Without --units and --seconds it works until SIGTERM. --event-us: events arrive at random, that far apart on
 * average. --threads: more threads that do the same on memory of their own.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "loops.h"
#include "xen.h"

#define BATCH 512
#define MOST_THREADS 16
#define NS_PER_S 1000000000ul

static volatile sig_atomic_t stopping;
static const struct loop *chosen;
static uint64_t line_count;

static void stop(int number)
{
	(void)number;
	stopping = 1;
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "worker: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

/* Fill the memory: word 0 links all lines in random order, the others are random. */
static void prepare(struct state *s)
{
	size_t bytes = line_count * sizeof(struct line);
	struct line *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		refuse("no memory");
	/* Huge pages, so that cache misses are not TLB misses too. */
	madvise(memory, bytes, MADV_HUGEPAGE);
	*s = (struct state){.memory = memory, .mask = line_count - 1, .random = 1};
	for (uint64_t i = 0; i < line_count; i++) {
		memory[i].word[0] = i;
		for (int j = 1; j < LINE_WORDS; j++)
			memory[i].word[j] = draw(s) << 31 ^ draw(s);
	}
	/* One cycle through all lines (Sattolo). */
	for (uint64_t i = line_count - 1; i > 0; i--) {
		uint64_t j = draw(s) % i, kept = memory[i].word[0];

		memory[i].word[0] = memory[j].word[0];
		memory[j].word[0] = kept;
	}
}

static void *more(void *argument)
{
	static __thread struct vcpu_info shared __attribute__((aligned(64)));
	static __thread struct cpu_info cpu __attribute__((aligned(64)));
	struct state state;

	(void)argument;
	cpu.ci_self = &cpu;
	cpu.ci_vcpu = &shared;
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, &cpu))
		refuse("cannot set the segment base");
	prepare(&state);
	while (!stopping)
		chosen->run(&state, BATCH);
	return NULL;
}

int main(int argc, char **argv)
{
	static const struct option known[] = {{"units", 1, 0, 'u'}, {"seconds", 1, 0, 's'}, {"cpu", 1, 0, 'c'},
		{"event-us", 1, 0, 'e'}, {"event-cpu", 1, 0, 'E'}, {"threads", 1, 0, 't'}, {0, 0, 0, 0}};
	uint64_t units = 0, seconds = 0, event_us = 0, threads = 1, begin_ns, begin_units, end_ns = UINT64_MAX, ran_ns;
	int cpu = -1, event_cpu = 0, letter;
	pthread_t others[MOST_THREADS];
	struct state state;

	while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (letter) {
		case 'u': units = number(optarg); break;
		case 's': seconds = number(optarg); break;
		case 'c': cpu = (int)number(optarg); break;
		case 'e': event_us = number(optarg); break;
		case 'E': event_cpu = (int)number(optarg); break;
		case 't': threads = number(optarg); break;
		default: return 2;
		}
	for (int i = 0; optind < argc && i < loop_count; i++)
		if (!strcmp(argv[optind], loops[i].work))
			chosen = &loops[i];
	if (!chosen || argc - optind != 2 || !threads || threads > MOST_THREADS) {
		fprintf(stderr, "worker: give WORK and KILOBYTES; the works are:");
		for (int i = 0; i < loop_count; i++)
			fprintf(stderr, " %s", loops[i].work);
		fprintf(stderr, "\n");
		return 2;
	}
	for (line_count = 16; line_count * sizeof(struct line) < number(argv[optind + 1]) * 1024;)
		line_count *= 2;
	signal(SIGTERM, stop);
	if (cpu >= 0)
		pin(cpu);
	xen_start(event_cpu, event_us * 1000);
	prepare(&state);
	for (uint64_t i = 1; i < threads; i++)
		if ((errno = pthread_create(&others[i], NULL, more, NULL)))
			refuse("cannot start a thread");
	/* Warm up. */
	chosen->run(&state, 4 * line_count < 400000 ? 4 * line_count : 400000);
	printf("ready\n");
	fflush(stdout);
	begin_units = worker_units;
	begin_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (seconds)
		end_ns = clock_ns(CLOCK_MONOTONIC) + seconds * NS_PER_S;
	while (!stopping && (!units || worker_units - begin_units < units) && clock_ns(CLOCK_MONOTONIC) < end_ns)
		chosen->run(&state, BATCH);
	ran_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin_ns;
	units = worker_units - begin_units;
	stopping = 1;
	for (uint64_t i = 1; i < threads; i++)
		pthread_join(others[i], NULL);
	xen_stop();
	printf("{\"work\": \"%s\", \"units\": %" PRIu64 ", \"running_ns\": %" PRIu64 ", \"sent\": %" PRIu64
	       ", \"merged\": %" PRIu64 ", \"events\": %" PRIu64 ", \"upcalls\": %" PRIu64 ", \"left_pending\": %s}\n",
	       chosen->work, units, ran_ns, xen_counts.sent, xen_counts.merged, guest_counts.event, guest_counts.upcall,
	       xen_pending() ? "true" : "false");
	return 0;
}
