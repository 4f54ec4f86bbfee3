/*
 * The guest's half: vcpu_info as in Xen's public header, reached through %gs, and the sites.
 *
 * FENCE is the fence's instruction ("" for none), OUT_OF_LINE puts it into a separate function.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>

#define noinline __attribute__((noinline, noclone))
#define inlined static inline __attribute__((always_inline))
/* A single instruction, so that a kick between read and write loses no count. */
#define COUNT(word) __asm__ volatile("incq %0" : "+m"(word) :: "cc")
#define barrier() __asm__ volatile("" ::: "memory")

struct vcpu_info {
	volatile uint8_t evtchn_upcall_pending, evtchn_upcall_mask;
	volatile unsigned long evtchn_pending_sel;
	unsigned long arch[2];
	uint32_t time[8];
};
_Static_assert(sizeof(struct vcpu_info) == 64, "as in xen.h");

/* The running CPU's data, reached through %gs as in NetBSD. */
struct cpu_info {
	struct cpu_info *ci_self;
	uint64_t ci_index;
	struct vcpu_info *ci_vcpu;
};

inlined struct vcpu_info *this_vcpu(void)
{
	struct cpu_info *cpu;

	__asm__ volatile("movq %%gs:0, %0" : "=r"(cpu));
	return cpu->ci_vcpu;
}

/* Every variant clobbers %rax, so that the code around the fence is the same in all. */
#ifdef OUT_OF_LINE
void x86_fence(void);
#define fence() x86_fence()
#else
#define fence() __asm__ volatile(FENCE ::: "memory", "cc", "rax")
#endif

void force_callback(void);

/* Mask, and return the previous mask. */
inlined uint8_t enter(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	uint8_t was = vcpu->evtchn_upcall_mask;

	vcpu->evtchn_upcall_mask = 1;
	fence();
	return was;
}

/* Restore the mask, and force a callback for events that arrived meanwhile. */
inlined void leave(uint8_t was)
{
	struct vcpu_info *vcpu = this_vcpu();

	barrier();
	vcpu->evtchn_upcall_mask = was;
	fence();
	if (was == 0 && vcpu->evtchn_upcall_pending)
		force_callback();
}

/* The same as functions. */
void upcalls_mask(void);
void upcalls_unmask(void);

/* The event callback: Xen masks before it calls it, and unmasks when it returns. */
void upcall(void);

/* Counters of what the guest did, each incremented where it is done. */
struct guest_counts {
	volatile uint64_t upcall, event, forced_callback;
};
extern struct guest_counts guest_counts;

#endif
