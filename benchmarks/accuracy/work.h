/*
 * The guest's work between its sites: nothing, or one kind of memory traffic or computation.
 *
 * Each piece runs before the mask and again between mask and restore, so both sites follow it.
 */
#ifndef WORK_H
#define WORK_H

#include <stddef.h>
#include "guest.h"

#define HOT_WORDS 64
#define NEAR_LINES 8192			/* 512 kB: beyond L1, within L2 */
#define FAR_LINES (1ul << 20)		/* 64 MB: beyond a core's own caches */

struct node {
	struct node *next;
	uint64_t value[7];
};
_Static_assert(sizeof(struct node) == 64, "a cache line");

/* Held in registers while a loop runs. */
struct state {
	volatile uint64_t *hot;
	struct node *near, *far, *cold;
	uint64_t chain, random, cursor;
};

/* docs/accuracy.md describes each kind. */
#define WORKS(X) \
	X(none) X(stores_8) X(stores_40) X(copy_256) X(list_8) X(alu_60) X(alu_180) X(alu_fresh) X(branches) \
	X(stores_near) X(store_miss_1) X(store_miss_4) X(load_miss_1) X(chase_1)

inlined uint64_t draw(struct state *s)
{
	s->random = s->random * 6364136223846793005ul + 1442695040888963407ul;
	return s->random >> 33;
}

inlined void store(struct state *s, int first, int count)
{
#pragma GCC unroll 64
	for (int i = first; i < first + count; i++)
		s->hot[i] = s->chain;
}

inlined void multiply(uint64_t *word, int count)
{
#pragma GCC unroll 64
	for (int i = 0; i < count; i++)
		__asm__ volatile("imulq %0, %0" : "+r"(*word) :: "cc");
}

inlined void work_none(struct state *s)
{
	(void)s;
}

inlined void work_stores_8(struct state *s)
{
	store(s, 0, 8);
}

inlined void work_stores_40(struct state *s)
{
	store(s, 0, 40);
}

inlined void work_copy_256(struct state *s)
{
#pragma GCC unroll 64
	for (int i = 0; i < 32; i++)
		s->hot[i] = s->hot[i + 32];
}

inlined void work_list_8(struct state *s)
{
	const struct node *node = s->near;

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		node = *(struct node *const volatile *)&node->next;
	s->chain += (uint64_t)(node != NULL);
}

inlined void work_alu_60(struct state *s)
{
	multiply(&s->chain, 20);
}

inlined void work_alu_180(struct state *s)
{
	multiply(&s->chain, 60);
}

/* Like alu_60, but each piece starts a new chain, so that pieces can overlap. */
inlined void work_alu_fresh(struct state *s)
{
	uint64_t word = 3;

	__asm__ volatile("" : "+r"(word));
	multiply(&word, 20);
	s->hot[0] = word;
}

inlined void work_branches(struct state *s)
{
#pragma GCC unroll 2
	for (int i = 0; i < 2; i++)
		if (draw(s) & 1)
			s->hot[i]++;
}

inlined void work_stores_near(struct state *s)
{
	s->near[draw(s) % NEAR_LINES].value[0] = 1;
	s->near[draw(s) % NEAR_LINES].value[0] = 1;
	barrier();
}

inlined void work_store_miss_1(struct state *s)
{
	s->far[draw(s) % FAR_LINES].value[0] = 1;
	barrier();
}

inlined void work_store_miss_4(struct state *s)
{
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		s->far[draw(s) % FAR_LINES].value[0] = 1;
	barrier();
}

/* The next piece does not depend on the loaded value. */
inlined void work_load_miss_1(struct state *s)
{
	uint64_t value = *(volatile uint64_t *)&s->far[draw(s) % FAR_LINES].value[0];

	__asm__ volatile("" :: "r"(value));
}

/* Each load's address depends on the value of the load before it. */
inlined void work_chase_1(struct state *s)
{
	s->random += *(volatile uint64_t *)&s->far[draw(s) % FAR_LINES].value[0];
}

#endif
