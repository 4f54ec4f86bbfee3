/* The data of the work that is like a kernel's, and its functions out of line. */
#include "kernel_work.h"

struct kernel kernel __attribute__((aligned(4096)));

static noinline uint64_t add(uint64_t word)
{
	return word + 7;
}

static noinline uint64_t mix(uint64_t word)
{
	return word ^ word >> 5;
}

noinline uint64_t kernel_frames(uint64_t word, int depth)
{
	uint64_t deeper;

	if (!depth)
		return word;
	deeper = kernel_frames(word + 1, depth - 1);
	return deeper ^ word;
}

static struct leaf *subtree(int *taken, uint64_t first, uint64_t last)
{
	struct leaf *leaf = &kernel.tree[(*taken)++];
	uint64_t middle = (first + last) / 2;

	leaf->key = middle;
	leaf->side[0] = first < middle ? subtree(taken, first, middle - 1) : NULL;
	leaf->side[1] = middle < last ? subtree(taken, middle + 1, last) : NULL;
	return leaf;
}

void kernel_prepare(void)
{
	int taken = 0;

	kernel.head.next = kernel.head.previous = &kernel.head;
	for (int i = 0; i < LIST_ITEMS; i++) {
		struct item *item = &kernel.items[i * 11 % LIST_ITEMS];
		struct item **bucket;

		link_item(item, &kernel.head);
		item->key = (uint64_t)(item - kernel.items);
		bucket = &kernel.buckets[mixed(item->key) % BUCKETS];
		item->value = (uint64_t)*bucket;	/* the next of the same bucket */
		*bucket = item;
	}
	subtree(&taken, 0, TREE_ITEMS - 1);
	for (uint64_t i = 0; i < 256; i++)
		kernel.table[i] = mixed(i) & 0xffffffff;
	for (int i = 0; i < 63; i++)
		kernel.text[i] = (uint8_t)(i % 5 == 4 && i < 31 ? 0xc3 : 'a' + i % 20);
	kernel.text[31] = kernel.text[63] = 0;
	for (int i = 0; i < 15; i++)
		kernel.text[32 + i] = kernel.text[i];
	kernel.bitmap[3] = 1ul << 17;
	kernel.queues[3] = &kernel.items[0];
	for (int i = 0; i < 4; i++)
		kernel.operations[i] = i % 2 ? mix : add;
}
