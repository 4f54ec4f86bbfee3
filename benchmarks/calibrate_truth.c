/*
 * Measure what fences cost, with independent loops; benchmarks/calibrate.py compares the results with
 * `xtrace calibrate`.  Prints one line for each kind, fence and context: the TSC cycles that the fence adds
 * to one execution, the median of interleaved pairs.  Usage: calibrate_truth CPU
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define PASSES 64
#define RUNS 301

static struct vcpu_info { volatile uint8_t pending, mask; char rest[62]; } vcpu __attribute__((aligned(64)));
/* The per-CPU data: a pointer to itself, and the pointer to vcpu_info. */
static struct cpu { struct cpu *volatile self; long depth; struct vcpu_info *volatile vcpu; } cpu = { &cpu, 0, &vcpu };
static volatile uint64_t hot[40] __attribute__((aligned(64)));
static char pages[PASSES][4096] __attribute__((aligned(4096)));
/* Offsets, not pointers: some processors prefetch what an array of pointers points to. */
static uint32_t lines[PASSES];
#define LINE (pages[0] + lines[i])
static volatile uint8_t kept;

static inline uint64_t now(void)
{
	uint32_t low, high;

	__asm__ volatile("mfence; lfence; rdtsc; lfence" : "=a"(low), "=d"(high) :: "memory");
	return (uint64_t)high << 32 | low;
}

static void flush(void)
{
	for (int i = 0; i < PASSES; i++)
		__asm__ volatile("clflush %0" :: "m"(*LINE) : "memory");
}

#define CHAIN_20 ".rept 20; imul %%r11, %%r11; .endr"
#define CHAIN_60 ".rept 60; imul %%r11, %%r11; .endr"
#define CHAIN_1024 ".rept 1024; imul %%r11, %%r11; .endr"
#define ASM(text) __asm__ volatile(text ::: "r11", "memory", "cc")

#define BEFORE_empty
#define BEFORE_stores_8 for (int s = 0; s < 8; s++) hot[s] = s;
#define BEFORE_stores_40 _Pragma("GCC unroll 40") for (int s = 0; s < 40; s++) hot[s] = s;
#define BEFORE_alu_chain ASM(CHAIN_60);
#define BEFORE_alu_fresh ASM("mov $3, %%r11d; " CHAIN_20);
#define BEFORE_store_miss_1 ASM("lfence"); *(volatile char *)LINE = 1;
#define BEFORE_load_miss_1 ASM("lfence"); *(volatile char *)LINE;
#define BEHIND_empty
#define BEHIND_stores_8
#define BEHIND_stores_40
#define BEHIND_alu_chain
#define BEHIND_alu_fresh
#define BEHIND_store_miss_1 ASM(CHAIN_1024);
#define BEHIND_load_miss_1 ASM(CHAIN_1024);
#define MISSES_empty 0
#define MISSES_stores_8 0
#define MISSES_stores_40 0
#define MISSES_alu_chain 0
#define MISSES_alu_fresh 0
#define MISSES_store_miss_1 1
#define MISSES_load_miss_1 1

#define VCPU struct vcpu_info *v = cpu.self->vcpu;
#define SITE_mask(fence) VCPU (void)v->mask; v->mask = 1; fence
#define SITE_restore(fence) VCPU v->mask = kept_mask; fence if (v->pending) abort();
#define SITE_unmask(fence) VCPU v->mask = 0; fence if (v->pending) abort();

#define NONE
#define LFENCE ASM("lfence");
#define MFENCE ASM("mfence");
#define SFENCE ASM("sfence");
#define LOCK_ADD ASM("lock addq $0, -8(%%rsp)");

#define RUN(name, kind, context, fence)							\
	static __attribute__((noinline)) double name(int count)				\
	{										\
		uint8_t kept_mask = kept;						\
		uint64_t begin;								\
											\
		(void)kept_mask;							\
		if (MISSES_##context)							\
			flush();							\
		begin = now();								\
		for (int i = 0; i < count; i++) {					\
			BEFORE_##context						\
			SITE_##kind(fence)						\
			BEHIND_##context						\
		}									\
		return (double)(now() - begin) / count;					\
	}

static int compare(const void *left, const void *right)
{
	double a = *(const double *)left, b = *(const double *)right;

	return (a > b) - (a < b);
}

static void report(const char *kind, const char *fence, const char *context, int misses,
		   double (*fenced)(int), double (*plain)(int))
{
	static double differences[RUNS];
	int count = misses ? PASSES : 400;

	for (int run = -20; run < RUNS; run++) {
		int first = rand() & 1;
		double a = first ? fenced(count) : 0, b = plain(count);

		if (!first)
			a = fenced(count);
		if (run >= 0)
			differences[run] = a - b;
	}
	qsort(differences, RUNS, sizeof(*differences), compare);
	printf("%s,%s,%s,%.2f\n", kind, fence, context, differences[RUNS / 2]);
}

#define EACH_FENCE(kind, context)							\
	RUN(kind##_##context##_none, kind, context, NONE)				\
	RUN(kind##_##context##_lfence, kind, context, LFENCE)				\
	RUN(kind##_##context##_mfence, kind, context, MFENCE)				\
	RUN(kind##_##context##_sfence, kind, context, SFENCE)				\
	RUN(kind##_##context##_lock, kind, context, LOCK_ADD)
#define REPORT(kind, context, name, fence)						\
	report(#kind, name, #context, MISSES_##context, kind##_##context##_##fence,	\
	       kind##_##context##_none);
#define REPORT_EACH(kind, context)							\
	REPORT(kind, context, "lfence", lfence) REPORT(kind, context, "mfence", mfence)	\
	REPORT(kind, context, "sfence", sfence) REPORT(kind, context, "lock add", lock)

#define EACH_CONTEXT(what, kind)							\
	what(kind, empty) what(kind, stores_8) what(kind, stores_40)			\
	what(kind, alu_chain) what(kind, alu_fresh) what(kind, store_miss_1) what(kind, load_miss_1)

EACH_CONTEXT(EACH_FENCE, mask)
EACH_CONTEXT(EACH_FENCE, restore)
EACH_CONTEXT(EACH_FENCE, unmask)

int main(int count, char **arguments)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(count > 1 ? atoi(arguments[1]) : 0, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (int i = 0; i < PASSES; i++)
		lines[i] = 4096 * i + 64 * (rand() % 64) + 32;
	for (int i = PASSES - 1; i > 0; i--) {
		int j = rand() % (i + 1);
		uint32_t kept_line = lines[i];

		lines[i] = lines[j];
		lines[j] = kept_line;
	}
	EACH_CONTEXT(REPORT_EACH, mask)
	EACH_CONTEXT(REPORT_EACH, restore)
	EACH_CONTEXT(REPORT_EACH, unmask)
	return 0;
}
