/*
 * The loops: work, mask, work, restore or unmask, with the sites inlined or as functions.
 *
 * One function for each kind of work, inlined and called, so that each loop has its own sites.
 */
#include "sections.h"

#define SECTION(work) \
static noinline void section_##work(struct state *state, uint64_t rounds) \
{ \
	struct state s = *state; \
	uint8_t was; \
 \
	while (rounds--) { \
		work_##work(&s); \
		was = enter(); \
		work_##work(&s); \
		leave(was); \
	} \
	*state = s; \
}
WORKS(SECTION)
KERNEL_WORKS(SECTION)

#define CALLED(work) \
static noinline void called_##work(struct state *state, uint64_t rounds) \
{ \
	struct state s = *state; \
 \
	while (rounds--) { \
		work_##work(&s); \
		upcalls_mask(); \
		work_##work(&s); \
		upcalls_unmask(); \
	} \
	*state = s; \
}
WORKS(CALLED)
KERNEL_WORKS(CALLED)

const struct section sections[] = {
#define ENTRY(work) {#work, "inlined", section_##work, "section_" #work, "restore", "section_" #work},
	WORKS(ENTRY) KERNEL_WORKS(ENTRY)
#undef ENTRY
#define ENTRY(work) {#work, "called", called_##work, "upcalls_mask", "unmask", "upcalls_unmask"},
	WORKS(ENTRY) KERNEL_WORKS(ENTRY)
#undef ENTRY
};
const int section_count = sizeof(sections) / sizeof(sections[0]);
