/*
 * Kernel-like work between a mask and a restore, on memory of any size: one piece is a unit of work.
 *
 * Each piece picks lines of the memory at random, so the size decides which cache they are in.  What a unit
 * takes does not change with the number of units done, so a program that ran longer has the same truth.
 */
#ifndef WORKS_H
#define WORKS_H

#include <stddef.h>
#include <string.h>
#include "guest.h"

#define LINE_WORDS 8
#define WHEEL_SLOTS 64

struct line {
	uint64_t word[LINE_WORDS];
};
_Static_assert(sizeof(struct line) == 64, "a cache line");

/* Memory of `mask + 1` lines, and what the pieces keep between units. */
struct state {
	struct line *memory;
	uint64_t mask, random, sum;
	uint64_t free_list, head, tail, tick;
	uint64_t wheel[WHEEL_SLOTS];
};

#define WORKS(X) \
	X(hash) X(list) X(copy) X(slab) X(queue) X(spl) X(callout) X(checksum) X(tree) X(bitmap) X(pages) X(lru) \
	X(sort) X(clear) X(names)

inlined uint64_t draw(struct state *s)
{
	s->random = s->random * 6364136223846793005ul + 1442695040888963407ul;
	return s->random >> 33;
}

inlined struct line *some_line(struct state *s)
{
	return &s->memory[draw(s) & s->mask];
}

/* Look two keys up in a table of buckets with up to four entries. */
inlined void work_hash(struct state *s)
{
	for (int key = 0; key < 2; key++) {
		const struct line *bucket = some_line(s);

		for (int i = 0; i < 4; i++)
			if ((bucket->word[i] ^ s->random) & 7)
				s->sum += bucket->word[i + 4];
			else
				break;
	}
}

/* Follow eight links of a list that visits the lines in random order. */
inlined void work_list(struct state *s)
{
	uint64_t at = s->head;

	for (int i = 0; i < 8; i++)
		at = s->memory[at].word[0] & s->mask;
	s->head = at;
}

/* Copy 256 bytes between two places. */
inlined void work_copy(struct state *s)
{
	const struct line *from = &s->memory[draw(s) & s->mask & ~3ul];
	struct line *to = &s->memory[draw(s) & s->mask & ~3ul];

	for (int i = 0; i < 4; i++)
		to[i] = from[i];
	__asm__ volatile("" :: "r"(to) : "memory");
}

/* Free an object to a list, allocate another from it. */
inlined void work_slab(struct state *s)
{
	uint64_t freed = draw(s) & s->mask;
	uint64_t got = s->free_list;

	s->memory[freed].word[1] = got;
	s->free_list = s->memory[got].word[1] & s->mask;
	s->memory[got].word[2] = s->random;
	s->memory[got].word[3] = freed;
}

/* Put a record into a ring, take the oldest one out. */
inlined void work_queue(struct state *s)
{
	struct line *in = &s->memory[s->head++ & s->mask];
	const struct line *out = &s->memory[(s->head + (s->mask >> 1)) & s->mask];

	for (int i = 2; i < LINE_WORDS; i++)
		in->word[i] = s->random + (uint64_t)i;
	for (int i = 2; i < LINE_WORDS; i++)
		s->sum += out->word[i];
}

/* Touch little, but mask and restore once more inside: nested priority levels. */
inlined void work_spl(struct state *s)
{
	uint8_t was = enter();

	s->sum += some_line(s)->word[2];
	leave(was);
}

/* Arm a timer in a wheel, expire a slot of it. */
inlined void work_callout(struct state *s)
{
	uint64_t timer = draw(s) & s->mask;
	uint64_t *slot = &s->wheel[(s->tick + (s->random & 31) + 1) % WHEEL_SLOTS];
	uint64_t due = s->wheel[s->tick++ % WHEEL_SLOTS];

	s->memory[timer].word[4] = *slot;
	*slot = timer;
	for (int i = 0; i < 3 && due; i++) {
		s->sum += s->memory[due].word[5];
		due = s->memory[due].word[4] & s->mask;
	}
	s->wheel[(s->tick - 1) % WHEEL_SLOTS] = 0;
}

/* The Internet checksum of 256 bytes. */
inlined void work_checksum(struct state *s)
{
	const struct line *data = &s->memory[draw(s) & s->mask & ~3ul];
	uint64_t sum = 0;

	for (int i = 0; i < 4; i++)
		for (int j = 0; j < LINE_WORDS; j++) {
			sum += data[i].word[j];
			sum += sum < data[i].word[j];
		}
	s->sum ^= sum;
}

/* Descend six levels of an implicit binary tree, by keys. */
inlined void work_tree(struct state *s)
{
	uint64_t at = 1, key = draw(s);

	for (int level = 0; level < 6; level++) {
		uint64_t spread = (at * 0x9e3779b97f4a7c15ul) >> 20;

		at = 2 * at + (s->memory[spread & s->mask].word[6] > key << 31);
	}
	s->sum += at;
}

/* Find a clear bit in a bitmap, set it, and clear it again: each unit finds what the first one found. */
inlined void work_bitmap(struct state *s)
{
	volatile uint64_t *word = some_line(s)->word + 2;
	uint64_t bits;

	for (int i = 0; i < 5 && *word == UINT64_MAX; i++)
		word++;
	bits = *word;
	*word = bits | 1ul << (__builtin_ctzl(~bits | 1ul << 63));
	*word = bits;
}

/* Walk four levels of tables: each entry has the next one's place. */
inlined void work_pages(struct state *s)
{
	uint64_t entry = draw(s) & s->mask;

	for (int level = 0; level < 4; level++)
		entry = (s->memory[entry].word[7] + (s->random >> (9 * level))) & s->mask;
	s->sum += entry;
}

/* Unlink a line from a doubly linked list, link it in at another place. */
inlined void work_lru(struct state *s)
{
	uint64_t at = draw(s) & s->mask, to = draw(s) & s->mask;
	uint64_t next = s->memory[at].word[2] & s->mask, before = s->memory[at].word[3] & s->mask;

	s->memory[before].word[2] = next;
	s->memory[next].word[3] = before;
	s->memory[at].word[2] = to;
	s->memory[at].word[3] = s->memory[to].word[3];
	s->memory[to].word[3] = at;
}

/* Sort a copy of a line's words by insertion: branches that cannot be predicted. */
inlined void work_sort(struct state *s)
{
	struct line line = *some_line(s);

	line.word[2] ^= draw(s) << 20;
	for (int i = 3; i < LINE_WORDS; i++) {
		uint64_t word = line.word[i];
		int j = i;

		for (; j > 2 && line.word[j - 1] > word; j--)
			line.word[j] = line.word[j - 1];
		line.word[j] = word;
	}
	s->sum += line.word[4];
}

/* Clear 512 bytes. */
inlined void work_clear(struct state *s)
{
	struct line *to = &s->memory[draw(s) & s->mask & ~7ul];

	for (int i = 0; i < 8; i++)
		for (int j = 2; j < LINE_WORDS; j++)
			((volatile struct line *)to)[i].word[j] = 0;
}

/* Compare a name of 32 bytes with those of three cache entries. */
inlined void work_names(struct state *s)
{
	uint64_t name[4];

	memcpy(name, some_line(s)->word + 4, sizeof(name));
	for (int i = 0; i < 3; i++) {
		const struct line *entry = some_line(s);

		s->sum += entry->word[4] == name[0] && entry->word[5] == name[1] && entry->word[6] == name[2];
	}
}

#endif
