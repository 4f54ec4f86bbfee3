/* Forms in C: atomics, exchanges, vCPUs by number, hypercalls by trap. */
#include "guest.h"

struct shared_info {
	struct vcpu_info vcpu_info[32];
	unsigned long pending[8 * sizeof(long)], mask[8 * sizeof(long)];
};

struct shared_info *HYPERVISOR_shared_info;
volatile unsigned long events;

noinline void outside(void)
{
	events++;
}

inlined struct vcpu_info *vcpu(void)
{
	return &HYPERVISOR_shared_info->vcpu_info[0];
}

inlined unsigned int own_number(void)
{
	unsigned int number;

	__asm__ volatile("movl %%" SEGMENT ":0x34, %0" : "=r"(number));
	return number;
}

noinline void unmask_seq_cst(void)
{
	struct vcpu_info *v = vcpu();

	__atomic_store_n(&v->mask, 0, __ATOMIC_SEQ_CST);	/* SITE unmask fence=xchg/inline/access:replaceable verdict=replaceable tests=all cpu=fixed */
	if (__atomic_load_n(&v->pending, __ATOMIC_SEQ_CST))	/* SITE pending-test */
		force_callback();
}

noinline void unmask_release(void)
{
	struct vcpu_info *v = vcpu();

	__atomic_store_n(&v->mask, 0, __ATOMIC_RELEASE);	/* SITE unmask tests=all */
	if (__atomic_load_n(&v->pending, __ATOMIC_ACQUIRE))	/* SITE pending-test */
		force_callback();
}

noinline unsigned int swap_mask(void)
{
	return __atomic_exchange_n(&vcpu()->mask, 1, __ATOMIC_ACQ_REL);	/* SITE mask fence=xchg/inline/access:replaceable verdict=replaceable */
}

noinline void restore_seq_cst(uint8_t was)
{
	struct vcpu_info *v = vcpu();

	__atomic_store_n(&v->mask, was, __ATOMIC_SEQ_CST);	/* SITE restore fence=xchg/inline/access:replaceable verdict=replaceable tests=all */
	if (!was && __atomic_load_n(&v->pending, __ATOMIC_SEQ_CST))	/* SITE pending-test */
		force_callback();
}

noinline void restore_plain(uint8_t was)
{
	struct vcpu_info *v = vcpu();

	v->mask = was;			/* SITE restore tests=all */
	barrier();
	if (!was && v->pending)		/* SITE pending-test */
		force_callback();
}

/* Without optimisation clang makes a loop of these. */
#if defined(__clang__) && !defined(__OPTIMIZE__)
#define LOOPS 1
#endif

#ifndef LOOPS
noinline void unmask_by_and(void)
{
	struct vcpu_info *v = vcpu();

	__atomic_fetch_and(&v->mask, 0xfe, __ATOMIC_SEQ_CST);	/* SITE unmask? fence=lock_and/inline/access:replaceable verdict=replaceable tests=all */
	if (v->pending)			/* SITE pending-test? */
		force_callback();
}

noinline void mask_by_or(void)
{
	__atomic_fetch_or(&vcpu()->mask, 1, __ATOMIC_SEQ_CST);	/* SITE mask? fence=lock_or/inline/access:replaceable verdict=replaceable */
}
#endif

noinline unsigned int unmask_in_a_loop(void)
{
	struct vcpu_info *v = vcpu();
	uint8_t was = v->mask;		/* SITE save|mask-test */

	while (!__atomic_compare_exchange_n(&v->mask, &was, (uint8_t)(was & 0xfe), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))	/* SITE unmask fence=lock_cmpxchg/inline/access:replaceable verdict=replaceable tests=all */
		;
	if (v->pending)			/* SITE pending-test */
		force_callback();
	return was;
}

noinline void restore_outcome(unsigned long flags)
{
	struct vcpu_info *v = vcpu();
	uint8_t m = !(flags & 0x200);

	v->mask = m;			/* SITE restore|mask|unmask hazards=no-pending-test? */
	barrier();
	if (!m && v->pending)		/* SITE pending-test */
		force_callback();
}

/* --- a pointer that a function returns, as it is inlined otherwise --- */

noinline struct vcpu_info *returned(void)
{
	return &HYPERVISOR_shared_info->vcpu_info[0];
}

noinline struct vcpu_info *returned_again(void)
{
	events++;
	return returned();
}

noinline void unmask_returned(void)
{
	struct vcpu_info *v = returned();

	v->mask = 0;			/* SITE unmask tests=all */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void mask_returned_again(void)
{
	returned_again()->mask = 1;	/* SITE mask */
	barrier();
}

/* --- a test in a function of its own, as it is inlined otherwise --- */

noinline uint8_t is_pending(struct vcpu_info *v)
{
	barrier();
	return v->pending;		/* SITE pending-test */
}

noinline void deliver(struct vcpu_info *v)
{
	if (v->pending)			/* SITE pending-test */
		force_callback();
	events++;
}

noinline void deliver_first(struct vcpu_info *v)
{
	if (events)
		deliver(v);
	events++;
}

noinline void unmask_and_ask(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask tests=all */
	barrier();
	if (is_pending(v))
		force_callback();
}

noinline void unmask_and_deliver(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask fence=mfence/inline/after:removable tests=all */
	__asm__ volatile("mfence" ::: "memory");
	deliver(v);
	events++;
}

noinline void unmask_and_perhaps_deliver(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask tests=none hazards=no-pending-test */
	barrier();
	deliver_first(v);
	events++;
}

noinline void unmask_and_ask_in_vain(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask tests=none hazards=no-pending-test */
	barrier();
	is_pending(v);
	events++;
}

noinline void unmask_and_ask_later(void)
{
	struct vcpu_info *v = vcpu();
	uint8_t set;

	v->mask = 0;			/* SITE unmask tests=all */
	barrier();
	set = is_pending(v);
	events++;
	if (set)
		force_callback();
}

noinline void restore_and_ask(uint8_t was)
{
	struct vcpu_info *v = vcpu();

	v->mask = was;			/* SITE restore tests=all */
	barrier();
	if (!was && is_pending(v))
		force_callback();
}

/* --- which CPU's it is --- */

noinline void unmask_numbered(void)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[own_number()];

	barrier();
	v->mask = 0;			/* SITE unmask tests=all pointer=unstable cpu=loaded */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void unmask_numbered_twice(void)
{
	HYPERVISOR_shared_info->vcpu_info[own_number()].mask = 0;	/* SITE unmask fence=mfence/inline/after:removable tests=all pointer=unstable cpu=loaded */
	__asm__ volatile("mfence" ::: "memory");
	if (HYPERVISOR_shared_info->vcpu_info[own_number()].pending)	/* SITE pending-test */
		force_callback();
}

noinline void mask_numbered(void)
{
	HYPERVISOR_shared_info->vcpu_info[own_number()].mask = 1;	/* SITE mask pointer=unstable cpu=loaded */
}

noinline void unmask_another(unsigned int cpu)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[cpu];

	v->mask = 0;			/* SITE unmask fence=mfence/inline/after:removable tests=all pointer=unstable cpu=other */
	__asm__ volatile("mfence" ::: "memory");
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

/* --- hypercalls by trap --- */

#ifdef __x86_64__
inlined long trap(unsigned long number, unsigned long command)
{
	__asm__ volatile("syscall" : "+a"(number) : "D"(command), "S"(0UL) : "rcx", "r11", "memory");	/* SITE force-callback? */
	return number;
}
#else
inlined long trap(unsigned long number, unsigned long command)
{
	__asm__ volatile("int $0x82" : "+a"(number) : "b"(command), "c"(0UL) : "memory");	/* SITE force-callback? */
	return number;
}
#endif

noinline void unmask_by_trap(void)
{
	struct vcpu_info *v = vcpu();

	v->mask = 0;			/* SITE unmask tests=all callbacks=yes */
	barrier();
	if (v->pending)			/* SITE pending-test */
		trap(17, 0);
}

/* --- the handler --- */

noinline void callback(void)
{
	struct vcpu_info *v = vcpu();
	unsigned long ready;

	__atomic_store_n(&v->pending, 0, __ATOMIC_SEQ_CST);	/* SITE pending-clear */
	ready = take(v);
	while (ready) {
		outside();
		ready &= ready - 1;
	}
}
