#ifndef SECTIONS_H
#define SECTIONS_H

#include "kernel_work.h"

/* A loop and the functions that contain its two sites; each round executes both once. */
struct section {
	const char *work, *sites;
	void (*run)(struct state *state, uint64_t rounds);
	const char *mask_symbol, *kind, *kind_symbol;
};
extern const struct section sections[];
extern const int section_count;

#endif
