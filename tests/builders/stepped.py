"""A program that interrupts itself before each instruction of a site, and is held there by its own handler.

The trap flag makes the processor raise a debug exception after each instruction; the kernel turns it into
SIGTRAP, whose handler runs on top of the interrupted instruction.  The handler notes the address and stays
for a while, so that bytes are exchanged beneath it; then the interrupted code goes on in another arm.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <ucontext.h>

#define MOST 64
/* place() and x86_fence() are stepped through; `held` counts by distance from each one's first byte. */
volatile uint64_t worker_units, wrong, handlers, held_place[MOST], held_fence[MOST], exchanged[MOST];
volatile uint64_t hold_us = 300, release, holding_at;

__attribute__((noinline, aligned(64))) void x86_fence(void) { __asm__ volatile("lfence"); }
__attribute__((noinline, aligned(64))) uint64_t place(uint64_t n)
{
	uint64_t found = n * 3 + 1;

	__asm__ volatile("" : "+r"(found));
	x86_fence();
	__asm__ volatile("" : "+r"(found));
	return found ^ 5;
}
__attribute__((noinline, aligned(64))) void after(void) { __asm__ volatile("nop"); }

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static void step(int number, siginfo_t *info, void *context)
{
	uint64_t rip = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	uint64_t in_place = rip - (uint64_t)place, in_fence = rip - (uint64_t)x86_fence;
	const volatile uint8_t *bytes = (const volatile uint8_t *)rip;
	uint8_t was[4] = {bytes[0], bytes[1], bytes[2], bytes[3]};
	uint64_t end;

	(void)number;
	(void)info;
	handlers++;
	if (in_place >= MOST && in_fence >= MOST)
		return;
	if (in_place < MOST)
		held_place[in_place]++;
	else
		held_fence[in_fence]++;
	holding_at = rip;
	for (end = now_us() + hold_us; now_us() < end || (release && rip == release);)
		;
	holding_at = 0;
	for (int i = 0; i < 4; i++)
		if (bytes[i] != was[i]) {
			exchanged[in_place < MOST ? in_place : in_fence]++;
			break;
		}
}

int main(void)
{
	struct sigaction action = {.sa_sigaction = step, .sa_flags = SA_SIGINFO};

	sigaction(SIGTRAP, &action, NULL);
	printf("ready\n");
	fflush(stdout);
	for (uint64_t n = 1;; n++) {
		uint64_t found;

		__asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "memory", "cc");
		found = place(n);
		__asm__ volatile("pushfq; andl $~0x100, (%%rsp); popfq" ::: "memory", "cc");
		if (found != ((n * 3 + 1) ^ 5))
			wrong++;
		after();
		worker_units++;
	}
}
"""


def stepped(folder: Path) -> Path:
    """Compile the program; return it."""
    source, program = folder / "stepped.c", folder / "stepped"
    source.write_text(_SOURCE)
    flags = ["-O2", "-mno-red-zone", "-fcf-protection=none", "-no-pie", "-fno-stack-protector"]
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    return program
