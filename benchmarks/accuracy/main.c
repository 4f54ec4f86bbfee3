/*
 * Run the guest's loops on one CPU while Xen sends events from another; print counts and times as JSON.
 *
 * guest [--guest-cpu N] [--xen-cpu N] [--period-us N] [--batches N] [--batch-us N | --rounds N] SITES/WORK...
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <x86intrin.h>
#include "sections.h"
#include "xen.h"

#define MOST_BATCHES 1000
#define LIST_NODES 8
#define LIST_STRIDE 7

static volatile uint64_t hot[HOT_WORDS] __attribute__((aligned(4096)));
static struct node near[NEAR_LINES] __attribute__((aligned(4096)));

struct options {
	int guest_cpu, xen_cpu, batches;
	uint64_t period_us, batch_us, rounds;
};

static uint64_t now_cycles(void)
{
	unsigned int cpu;
	uint64_t cycles = __rdtscp(&cpu);

	_mm_lfence();
	return cycles;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ul + (uint64_t)now.tv_nsec;
}

static long switches(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_THREAD, &usage))
		refuse("cannot read the thread's usage");
	return usage.ru_nivcsw + usage.ru_nvcsw;
}

/* Huge pages, so that cache misses are not TLB misses too, or small ones, so that they are. */
static struct node *far_memory(size_t lines, int advice)
{
	size_t bytes = lines * sizeof(struct node);
	char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		refuse("no memory");
	/* Written, because unwritten pages share one page. */
	madvise(memory, bytes, advice);
	memset(memory, 0, bytes);
	return (struct node *)memory;
}

static int goes_far(const char *work)
{
	static const char *const begins[] = {"chase_", "llc_", "far_", "nt_", NULL};

	for (int i = 0; begins[i]; i++)
		if (!strncmp(work, begins[i], strlen(begins[i])))
			return 1;
	return strstr(work, "_miss_") || strstr(work, "_stream");
}

static uint64_t time_of(const struct section *section, struct state *state, uint64_t rounds)
{
	uint64_t begin = now_cycles();

	section->run(state, rounds);
	return now_cycles() - begin;
}

/* Return how many rounds take `batch_us`; the rounds executed to find out are added to `*done`. */
static uint64_t rounds_for(const struct section *section, struct state *state, uint64_t batch_us, uint64_t *done)
{
	section->run(state, 256);
	*done += 256;
	for (uint64_t rounds = 256;; rounds *= 2) {
		uint64_t begin = now_ns(), took;

		section->run(state, rounds);
		*done += rounds;
		took = now_ns() - begin;
		if (took >= batch_us * 250 || rounds >> 40)
			return rounds * batch_us * 1000 / (took + 1) + 1;
	}
}

static void measure(const struct section *section, struct state *state, const struct options *options, int first)
{
	static uint64_t cycles[MOST_BATCHES];
	uint64_t done = 0, rounds = options->rounds;
	long before;

	if (!rounds)
		rounds = rounds_for(section, state, options->batch_us, &done);
	before = switches();
	for (int batch = 0; batch < options->batches; batch++)
		cycles[batch] = time_of(section, state, rounds);
	done += rounds * (uint64_t)options->batches;
	printf("%s\n  {\"work\": \"%s\", \"sites\": \"%s\", \"rounds_count\": %" PRIu64
	       ", \"batch_rounds_count\": %" PRIu64 ", \"switches_count\": %ld,\n"
	       "   \"executions\": [{\"symbol\": \"%s\", \"kind\": \"mask\", \"count\": %" PRIu64
	       "}, {\"symbol\": \"%s\", \"kind\": \"%s\", \"count\": %" PRIu64 "}],\n   \"batch_cycles\": [",
	       first ? "" : ",", section->work, section->sites, done, rounds, switches() - before,
	       section->mask_symbol, done, section->kind_symbol, section->kind, done);
	for (int batch = 0; batch < options->batches; batch++)
		printf("%s%" PRIu64, batch ? ", " : "", cycles[batch]);
	printf("]}");
}

static const struct section *section_named(const char *name)
{
	const char *slash = strchr(name, '/');

	for (int i = 0; slash && i < section_count; i++)
		if (!strcmp(sections[i].work, slash + 1) && !strncmp(name, sections[i].sites, (size_t)(slash - name)) &&
		    !sections[i].sites[slash - name])
			return &sections[i];
	fprintf(stderr, "guest: no such loop: %s; the loops are:", name);
	for (int i = 0; i < section_count; i++)
		fprintf(stderr, " %s/%s", sections[i].sites, sections[i].work);
	fprintf(stderr, "\n");
	exit(2);
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*end || end == text) {
		fprintf(stderr, "guest: not a number: %s\n", text);
		exit(2);
	}
	return value;
}

static struct options parse(int argc, char **argv)
{
	static const struct option known[] = {{"guest-cpu", 1, 0, 'g'}, {"xen-cpu", 1, 0, 'x'}, {"period-us", 1, 0, 'p'},
		{"batches", 1, 0, 'n'}, {"batch-us", 1, 0, 'b'}, {"rounds", 1, 0, 'r'}, {0, 0, 0, 0}};
	struct options options = {.guest_cpu = 0, .xen_cpu = 1, .batches = 12, .period_us = 500, .batch_us = 1000};
	int letter;

	while ((letter = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (letter) {
		case 'g': options.guest_cpu = (int)number(optarg); break;
		case 'x': options.xen_cpu = (int)number(optarg); break;
		case 'p': options.period_us = number(optarg); break;
		case 'n': options.batches = (int)number(optarg); break;
		case 'b': options.batch_us = number(optarg); break;
		case 'r': options.rounds = number(optarg); break;
		default: exit(2);
		}
	if (options.batches < 1 || options.batches > MOST_BATCHES || optind == argc) {
		fprintf(stderr, "guest: give at least one loop SITES/WORK, and 1 to %d batches\n", MOST_BATCHES);
		exit(2);
	}
	return options;
}

int main(int argc, char **argv)
{
	struct options options = parse(argc, argv);
	struct state state = {.hot = hot, .near = near, .chain = 3, .random = 1};
	uint64_t begin_ns, begin_cycles, span_ns, span_cycles;

	for (int i = optind; i < argc; i++)
	{
		const char *work = section_named(argv[i])->work;

		if (goes_far(work) && !state.far)
			state.far = far_memory(FAR_LINES, MADV_HUGEPAGE);
		if (!strncmp(work, "cold_", 5) && !state.cold)
			state.cold = far_memory(COLD_LINES, MADV_NOHUGEPAGE);
	}
	kernel_prepare();
	for (int i = 0; i < LIST_NODES; i++)
		near[i * LIST_STRIDE % LIST_NODES].next = &near[(i + 1) * LIST_STRIDE % LIST_NODES];
	pin(options.guest_cpu);
	xen_start(options.xen_cpu, options.period_us * 1000);
	begin_ns = now_ns();
	begin_cycles = now_cycles();
	printf("{\"fence\": \"%s\", \"place\": \"%s\", \"loops\": [", FENCE_NAME, PLACE_NAME);
	for (int i = optind; i < argc; i++)
		measure(section_named(argv[i]), &state, &options, i == optind);
	span_cycles = now_cycles() - begin_cycles;
	span_ns = now_ns() - begin_ns;
	xen_stop();
	printf("],\n \"span_cycles\": %" PRIu64 ", \"span_ns\": %" PRIu64 ", \"upcall_count\": %" PRIu64
	       ", \"event_count\": %" PRIu64 ", \"forced_callback_count\": %" PRIu64 ", \"sent_count\": %" PRIu64
	       ", \"merged_count\": %" PRIu64 ", \"kick_count\": %" PRIu64 ", \"interrupt_count\": %" PRIu64
	       ", \"masked_interrupt_count\": %" PRIu64 ", \"delivery_count\": %" PRIu64 ", \"left_pending\": %s}\n",
	       span_cycles, span_ns, guest_counts.upcall, guest_counts.event, guest_counts.forced_callback, xen_counts.sent,
	       xen_counts.merged, xen_counts.kick, xen_counts.interrupt, xen_counts.masked, xen_counts.delivery,
	       xen_pending() ? "true" : "false");
	return 0;
}
