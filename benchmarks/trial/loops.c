/* The loops: mask, a unit of work, restore; each kind of work has its own loop and so its own two sites. */
#include "loops.h"

volatile uint64_t worker_units;

#define LOOP(work) \
static noinline void loop_##work(struct state *state, uint64_t units) \
{ \
	struct state s = *state; \
 \
	while (units--) { \
		uint8_t was = enter(); \
 \
		work_##work(&s); \
		leave(was); \
		COUNT(worker_units); \
	} \
	*state = s; \
}
WORKS(LOOP)

const struct loop loops[] = {
#define ENTRY(work) {#work, loop_##work},
	WORKS(ENTRY)
#undef ENTRY
};
const int loop_count = sizeof(loops) / sizeof(loops[0]);
