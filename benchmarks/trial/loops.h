#ifndef LOOPS_H
#define LOOPS_H

#include "works.h"

struct loop {
	const char *work;
	void (*run)(struct state *state, uint64_t units);
};
extern const struct loop loops[];
extern const int loop_count;
/* Units of work done: what a trial counts by. */
extern volatile uint64_t worker_units;

#endif
