/* As FreeBSD does it, in C: a per-CPU base from the segment, plus the address of a linked symbol. */
#include "guest.h"

struct vcpu_info *dynamic_vcpu_info;
volatile unsigned long events;

noinline void outside(void)
{
	events++;
}

inlined uintptr_t dynamic_base(void)
{
	uintptr_t base;

	__asm__ volatile("mov %%" SEGMENT ":0x240, %0" : "=r"(base));
	return base;
}

inlined struct vcpu_info *vcpu(void)
{
	return *(struct vcpu_info **)(dynamic_base() + (uintptr_t)&dynamic_vcpu_info);
}

noinline void cli(void)
{
	vcpu()->mask = 1;		/* SITE mask */
	barrier();
}

noinline void sti(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask fence=lfence/inline/after/all verdict=removable tests=all */
	__asm__ volatile("lfence" ::: "memory");
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline unsigned int save_and_cli(void)
{
	struct vcpu_info *v = vcpu();
	unsigned int was;

	was = v->mask;			/* SITE save */
	v->mask = 1;			/* SITE mask */
	barrier();
	return was;
}

noinline void restore_flags(unsigned int was)
{
	struct vcpu_info *v = vcpu();

	v->mask = (uint8_t)was;		/* SITE restore tests=all */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void intr_handle_upcall(void)
{
	struct vcpu_info *v = vcpu();

	v->pending = 0;			/* SITE pending-clear */
	events += take(v);
}
