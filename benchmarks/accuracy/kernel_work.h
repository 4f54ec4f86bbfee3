/*
 * Work like that of kernels: lists, hashes, trees, locks, queues, checksums, copies; from data in the first-level
 * cache to data that neither the caches nor the TLB hold.
 *
 * None of it was looked at when the model's contexts were chosen.
 */
#ifndef KERNEL_WORK_H
#define KERNEL_WORK_H

#include "work.h"

#define LIST_ITEMS 32
#define BUCKETS 64
#define RING_ITEMS 64
#define TREE_ITEMS 63
#define PRIORITIES 8
#define LLC_LINES (1ul << 17)		/* 8 MB */
#define COLD_LINES (1ul << 24)		/* 1 GB, in small pages */

struct item {
	struct item *next, *previous;
	uint64_t key, value;
};

struct leaf {
	struct leaf *side[2];
	uint64_t key, value;
};

typedef uint64_t (*operation)(uint64_t);

/* A few kB: it stays in the first-level cache. */
struct kernel {
	struct item head, items[LIST_ITEMS];
	struct item *buckets[BUCKETS], *queues[PRIORITIES];
	struct leaf tree[TREE_ITEMS];
	uint64_t ring[RING_ITEMS], produced, consumed;
	uint64_t counters[16], bitmap[8], table[256];
	uint64_t lock, sequence, references, clock;
	operation operations[4];
	uint8_t text[64], buffer[1024];
};
extern struct kernel kernel;

/* Fill it; each work leaves it usable for the next. */
void kernel_prepare(void);

#define KERNEL_HOT_WORKS(X) \
	X(list_move) X(list_walk_4) X(list_walk_16) X(hash_hot) X(clear_64) X(clear_256) X(copy_64) X(copy_512) \
	X(checksum_20) X(checksum_64) X(crc_8) X(crc_32) X(text_length) X(text_compare) X(bitmap_find) X(bitmap_flip) \
	X(tree_same) X(tree_random) X(counters_4) X(reference) X(spinlock) X(ring_push) X(ring_move) X(timer_wheel) \
	X(run_queue) X(divide) X(modulo_fresh) X(mix_1) X(mix_4) X(switch_same) X(switch_random) X(calls_4) \
	X(frames_6) X(compare_swap) X(sequence_read) X(copy_unaligned) X(decode_16) X(fresh_120) X(ones_8) X(packet)
#define KERNEL_MISS_WORKS(X) \
	X(near_walk_4) X(near_hash) X(near_copy) X(llc_load_1) X(llc_store_1) X(llc_walk_2) X(far_hash) X(far_walk_2) \
	X(far_walk_4) X(far_copy) X(far_count) X(far_store_2) X(cold_load_1) X(cold_walk_2) X(cold_walk_4) \
	X(cold_store_1) X(cold_count) X(nt_word) X(nt_line) X(clear_stream) X(sum_stream)
#define KERNEL_WORKS(X) KERNEL_HOT_WORKS(X) KERNEL_MISS_WORKS(X)

#define once(value) (*(volatile __typeof__(value) *)&(value))
#define used(value) __asm__ volatile("" :: "r"(value))

inlined void unlink_item(struct item *item)
{
	item->previous->next = item->next;
	item->next->previous = item->previous;
}

inlined void link_item(struct item *item, struct item *after)
{
	item->next = after->next;
	item->previous = after;
	after->next->previous = item;
	after->next = item;
}

inlined void work_list_move(struct state *s)
{
	struct item *item = &kernel.items[draw(s) % LIST_ITEMS];

	unlink_item(item);
	link_item(item, &kernel.head);
	barrier();
}

inlined void walk_items(int count)
{
	struct item *item = &kernel.head;

#pragma GCC unroll 16
	for (int i = 0; i < count; i++)
		item = once(item->next);
	used(item);
}

inlined void work_list_walk_4(struct state *s)
{
	(void)s;
	walk_items(4);
}

inlined void work_list_walk_16(struct state *s)
{
	(void)s;
	walk_items(16);
}

inlined uint64_t mixed(uint64_t word)
{
	word ^= word >> 33;
	word *= 0xff51afd7ed558ccdul;
	word ^= word >> 33;
	word *= 0xc4ceb9fe1a85ec53ul;
	return word ^ word >> 33;
}

inlined void work_hash_hot(struct state *s)
{
	uint64_t key = draw(s) % LIST_ITEMS;
	struct item *item = once(kernel.buckets[mixed(key) % BUCKETS]);

	while (item && once(item->key) != key)
		item = once(item->value) ? (struct item *)once(item->value) : NULL;
	used(item);
}

inlined void clear(uint64_t *words, int count)
{
#pragma GCC unroll 64
	for (int i = 0; i < count; i++)
		once(words[i]) = 0;
}

inlined void work_clear_64(struct state *s)
{
	(void)s;
	clear((uint64_t *)kernel.buffer, 8);
}

inlined void work_clear_256(struct state *s)
{
	(void)s;
	clear((uint64_t *)kernel.buffer, 32);
}

inlined void copy_words(uint64_t *to, const uint64_t *from, int count)
{
#pragma GCC unroll 64
	for (int i = 0; i < count; i++)
		once(to[i]) = once(from[i]);
}

inlined void work_copy_64(struct state *s)
{
	(void)s;
	copy_words((uint64_t *)kernel.buffer, kernel.table, 8);
}

inlined void work_copy_512(struct state *s)
{
	(void)s;
	copy_words((uint64_t *)kernel.buffer, kernel.table, 64);
}

/* As of an IP header: 32-bit words into one sum with its carries. */
inlined void checksum(int words)
{
	const uint32_t *word = (const uint32_t *)kernel.buffer;
	uint64_t sum = 0;

#pragma GCC unroll 32
	for (int i = 0; i < words; i++)
		sum += once(word[i]);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	once(*(uint16_t *)&kernel.counters[0]) = (uint16_t)~sum;
}

inlined void work_checksum_20(struct state *s)
{
	(void)s;
	checksum(5);
}

inlined void work_checksum_64(struct state *s)
{
	(void)s;
	checksum(16);
}

inlined void crc(int bytes)
{
	uint64_t value = 0xffffffff;

#pragma GCC unroll 32
	for (int i = 0; i < bytes; i++)
		value = once(kernel.table[(value ^ kernel.text[i % 64]) & 0xff]) ^ value >> 8;
	used(value);
}

inlined void work_crc_8(struct state *s)
{
	(void)s;
	crc(8);
}

inlined void work_crc_32(struct state *s)
{
	(void)s;
	crc(32);
}

inlined void work_text_length(struct state *s)
{
	int length = 0;

	while (once(kernel.text[length]))
		length++;
	s->chain += (uint64_t)length;
}

inlined void work_text_compare(struct state *s)
{
	int i = 0;

	while (i < 16 && once(kernel.text[i]) == once(kernel.text[i + 32]))
		i++;
	s->chain += (uint64_t)i;
}

inlined void work_bitmap_find(struct state *s)
{
	int word = 0;

	while (word < 7 && !once(kernel.bitmap[word]))
		word++;
	s->chain += (uint64_t)__builtin_ctzl(once(kernel.bitmap[word]) | 1ul << 63);
}

inlined void work_bitmap_flip(struct state *s)
{
	uint64_t bit = draw(s) % 256;

	once(kernel.bitmap[4 + bit / 64]) ^= 1ul << bit % 64;
}

inlined void descend(uint64_t key)
{
	const struct leaf *leaf = &kernel.tree[0];

	while (leaf && once(leaf->key) != key)
		leaf = once(leaf->side[once(leaf->key) < key]);
	used(leaf);
}

inlined void work_tree_same(struct state *s)
{
	(void)s;
	descend(1);
}

inlined void work_tree_random(struct state *s)
{
	descend(draw(s) % TREE_ITEMS);
}

inlined void work_counters_4(struct state *s)
{
	(void)s;
#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		once(kernel.counters[4 * i]) += 1;
}

inlined void work_reference(struct state *s)
{
	(void)s;
	__atomic_add_fetch(&kernel.references, 1, __ATOMIC_SEQ_CST);
	__atomic_sub_fetch(&kernel.references, 1, __ATOMIC_SEQ_CST);
}

inlined void work_spinlock(struct state *s)
{
	(void)s;
	while (__atomic_exchange_n(&kernel.lock, 1, __ATOMIC_ACQUIRE))
		;
	once(kernel.counters[1]) += 1;
	__atomic_store_n(&kernel.lock, 0, __ATOMIC_RELEASE);
}

inlined void work_ring_push(struct state *s)
{
	uint64_t at = once(kernel.produced);

	once(kernel.ring[at % RING_ITEMS]) = s->chain;
	barrier();
	once(kernel.produced) = at + 1;
}

inlined void work_ring_move(struct state *s)
{
	uint64_t at = once(kernel.consumed);

	work_ring_push(s);
	s->chain ^= once(kernel.ring[at % RING_ITEMS]) & 1;
	once(kernel.consumed) = at + 1;
}

inlined void work_timer_wheel(struct state *s)
{
	uint64_t expires = once(kernel.clock) + draw(s) % 1024, level = expires >> 6 & 7;

	once(kernel.queues[level]) = &kernel.items[expires % LIST_ITEMS];
	once(kernel.clock) += 1;
}

inlined void work_run_queue(struct state *s)
{
	int priority = 0;

	while (priority < PRIORITIES - 1 && !once(kernel.queues[priority]))
		priority++;
	s->chain += once(kernel.queues[priority]) != NULL;
}

inlined void work_divide(struct state *s)
{
	uint64_t time = s->random | 1ul << 62;

	__asm__ volatile("" : "+r"(time));
	used(time / (once(kernel.counters[2]) | 3));
}

inlined void work_modulo_fresh(struct state *s)
{
	uint64_t word = 12345;

	(void)s;
	__asm__ volatile("" : "+r"(word));
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		word = word * word % 4294967291u;
	used(word);
}

inlined void work_mix_1(struct state *s)
{
	s->chain = mixed(s->chain + 1);
}

inlined void work_mix_4(struct state *s)
{
	uint64_t word = once(kernel.counters[3]);

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		word = mixed(word + (uint64_t)i);
	(void)s;
	once(kernel.counters[4]) = word;
}

inlined void choose(uint64_t what)
{
	switch (what) {
	case 0: once(kernel.counters[5]) += 3; break;
	case 1: once(kernel.counters[6]) ^= 5; break;
	case 2: once(kernel.bitmap[5]) |= 2; break;
	case 3: once(kernel.counters[7]) -= 1; break;
	case 4: once(kernel.clock) += 2; break;
	case 5: once(kernel.ring[0]) = 1; break;
	case 6: once(kernel.counters[8]) <<= 1; break;
	default: once(kernel.counters[9]) = 0;
	}
}

inlined void work_switch_same(struct state *s)
{
	(void)s;
	choose(once(kernel.counters[15]) & 7);
}

inlined void work_switch_random(struct state *s)
{
	choose(draw(s) & 7);
}

inlined void work_calls_4(struct state *s)
{
	uint64_t word = s->chain;

#pragma GCC unroll 4
	for (int i = 0; i < 4; i++)
		word = once(kernel.operations[i])(word);
	s->chain = word;
}

/* Calls six deep, each with saved registers. */
uint64_t kernel_frames(uint64_t word, int depth);

inlined void work_frames_6(struct state *s)
{
	s->chain += kernel_frames(s->chain, 6);
}

inlined void work_compare_swap(struct state *s)
{
	uint64_t old = once(kernel.counters[10]);

	__atomic_compare_exchange_n(&kernel.counters[10], &old, old + 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
	(void)s;
}

inlined void work_sequence_read(struct state *s)
{
	uint64_t before, sum;

	do {
		before = once(kernel.sequence);
		barrier();
		sum = once(kernel.clock) + once(kernel.counters[11]);
		barrier();
	} while (before != once(kernel.sequence));
	s->chain += sum & 1;
}

inlined void work_copy_unaligned(struct state *s)
{
	(void)s;
#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		once(*(uint64_t *)&kernel.buffer[8 * i + 3]) = once(*(uint64_t *)&kernel.buffer[8 * i + 517]);
}

inlined void work_decode_16(struct state *s)
{
	uint64_t found = 0;

#pragma GCC unroll 16
	for (int i = 0; i < 16; i++) {
		uint8_t byte = once(kernel.text[i]);

		if (byte < 0x80)
			found += byte;
		else
			found = found << 6 | (byte & 0x3f);
	}
	s->chain += found;
}

inlined void work_fresh_120(struct state *s)
{
	uint64_t word = 3;

	__asm__ volatile("" : "+r"(word));
	multiply(&word, 40);
	s->hot[0] = word;
}

inlined void work_ones_8(struct state *s)
{
	uint64_t count = 0;

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++) {
		uint64_t word = once(kernel.bitmap[i]);

		word -= word >> 1 & 0x5555555555555555ul;
		word = (word & 0x3333333333333333ul) + (word >> 2 & 0x3333333333333333ul);
		count += ((word + (word >> 4)) & 0xf0f0f0f0f0f0f0ful) * 0x101010101010101ul >> 56;
	}
	s->chain += count;
}

/* A header filled in, summed, and put into a queue. */
inlined void work_packet(struct state *s)
{
	copy_words((uint64_t *)kernel.buffer, kernel.table, 5);
	once(*(uint32_t *)&kernel.buffer[4]) = (uint32_t)s->chain;
	checksum(5);
	work_ring_push(s);
	once(kernel.counters[12]) += 1;
}

/* --- data further away --- */

inlined uint64_t *word_of(struct node *lines, uint64_t line)
{
	return &lines[line].value[0];
}

/* Loads of which each needs the one before; all words are 0, which the processor does not know. */
inlined void walk_far(struct state *s, struct node *lines, uint64_t count, int steps)
{
	uint64_t at = 0;

#pragma GCC unroll 4
	for (int i = 0; i < steps; i++)
		at = *(volatile uint64_t *)word_of(lines, (draw(s) + at) % count);
	used(at);
}

inlined void work_near_walk_4(struct state *s)
{
	walk_far(s, s->near, NEAR_LINES, 4);
}

inlined void hash_far(struct state *s, struct node *lines, uint64_t count)
{
	uint64_t *bucket = word_of(lines, mixed(draw(s)) % count);
	uint64_t item = once(*bucket);

	if (item)
		item = once(*word_of(lines, item % count));
	once(kernel.counters[13]) += item + 1;
}

inlined void work_near_hash(struct state *s)
{
	hash_far(s, s->near, NEAR_LINES);
}

inlined void copy_far(struct state *s, struct node *lines, uint64_t count)
{
	uint64_t *from = word_of(lines, draw(s) % count), *to = word_of(lines, draw(s) % count);

	copy_words(to, from, 7);
}

inlined void work_near_copy(struct state *s)
{
	copy_far(s, s->near, NEAR_LINES);
}

inlined void work_llc_load_1(struct state *s)
{
	used(once(*word_of(s->far, draw(s) % LLC_LINES)));
}

inlined void work_llc_store_1(struct state *s)
{
	once(*word_of(s->far, draw(s) % LLC_LINES)) = 0;
}

inlined void work_llc_walk_2(struct state *s)
{
	walk_far(s, s->far, LLC_LINES, 2);
}

inlined void work_far_hash(struct state *s)
{
	hash_far(s, s->far, FAR_LINES);
}

inlined void work_far_walk_2(struct state *s)
{
	walk_far(s, s->far, FAR_LINES, 2);
}

inlined void work_far_walk_4(struct state *s)
{
	walk_far(s, s->far, FAR_LINES, 4);
}

inlined void work_far_copy(struct state *s)
{
	copy_far(s, s->far, FAR_LINES);
}

inlined void work_far_count(struct state *s)
{
	once(s->far[draw(s) % FAR_LINES].value[3]) += 1;
}

inlined void work_far_store_2(struct state *s)
{
	once(*word_of(s->far, draw(s) % FAR_LINES)) = 0;
	once(*word_of(s->far, draw(s) % FAR_LINES)) = 0;
}

inlined void work_cold_load_1(struct state *s)
{
	used(once(*word_of(s->cold, draw(s) % COLD_LINES)));
}

inlined void work_cold_walk_2(struct state *s)
{
	walk_far(s, s->cold, COLD_LINES, 2);
}

inlined void work_cold_walk_4(struct state *s)
{
	walk_far(s, s->cold, COLD_LINES, 4);
}

inlined void work_cold_store_1(struct state *s)
{
	once(*word_of(s->cold, draw(s) % COLD_LINES)) = 0;
}

inlined void work_cold_count(struct state *s)
{
	once(s->cold[draw(s) % COLD_LINES].value[3]) += 1;
}

inlined void store_past(uint64_t *word, uint64_t value)
{
	__asm__ volatile("movnti %1, %0" : "=m"(*word) : "r"(value));
}

inlined void work_nt_word(struct state *s)
{
	store_past(word_of(s->far, draw(s) % FAR_LINES), 0);
}

inlined void work_nt_line(struct state *s)
{
	uint64_t *words = (uint64_t *)&s->far[draw(s) % FAR_LINES];

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		store_past(words + i, 0);
}

inlined void work_clear_stream(struct state *s)
{
	clear((uint64_t *)&s->far[s->cursor++ % FAR_LINES], 8);
}

inlined void work_sum_stream(struct state *s)
{
	const uint64_t *words = (const uint64_t *)&s->far[s->cursor++ % FAR_LINES];
	uint64_t sum = 0;

#pragma GCC unroll 8
	for (int i = 0; i < 8; i++)
		sum += once(words[i]);
	used(sum);
}

#endif
