/* As Mini-OS and GRUB do it, in C: vcpu_info[n] in shared_info, by pointer and as a page. */
#include "guest.h"

struct shared_info {
	struct vcpu_info vcpu_info[32];
	volatile unsigned long pending[sizeof(long) * 8], mask[sizeof(long) * 8];
};

struct shared_info *HYPERVISOR_shared_info;
struct shared_info shared_info __attribute__((aligned(4096)));
volatile unsigned long events;

noinline void outside(void)
{
	events++;
}

inlined unsigned int this_cpu(void)
{
	unsigned int cpu;

	__asm__ volatile("movl %%" SEGMENT ":0x40, %0" : "=r"(cpu));
	return cpu;
}

noinline void cli_first(void)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[0];

	v->mask = 1;			/* SITE mask fence=mfence/inline/after/all verdict=removable */
	__asm__ volatile("mfence" ::: "memory");
}

noinline void sti_first(void)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[0];

	v->mask = 0;			/* SITE unmask fence=mfence/inline/after/all verdict=removable tests=all */
	__asm__ volatile("mfence" ::: "memory");
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void mask_third(void)
{
	HYPERVISOR_shared_info->vcpu_info[3].mask = 1;	/* SITE mask */
}

noinline unsigned long save_own(void)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[this_cpu()];
	unsigned long was;

	was = v->mask;			/* SITE save */
	v->mask = 1;			/* SITE mask fence=lfence/callee/after/all verdict=removable */
	x86_lfence();
	return was;
}

noinline void restore_own(unsigned long was)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[this_cpu()];

	v->mask = (uint8_t)was;		/* SITE restore fence=lfence/callee/after/all verdict=removable tests=all */
	x86_lfence();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void unmask_numbered(unsigned int cpu)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[cpu];

	v->mask = 0;			/* SITE unmask tests=all cpu=other */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void mask_page(void)
{
	shared_info.vcpu_info[0].mask = 1;	/* SITE mask */
	barrier();
}

noinline void unmask_page(void)
{
	shared_info.vcpu_info[0].mask = 0;	/* SITE unmask tests=all */
	barrier();
	if (shared_info.vcpu_info[0].pending)	/* SITE pending-test */
		force_callback();
}

noinline void mask_page_numbered(unsigned int cpu)
{
	shared_info.vcpu_info[cpu].mask = 1;	/* SITE mask cpu=other */
}

noinline void callback(void)
{
	struct shared_info *s = HYPERVISOR_shared_info;
	struct vcpu_info *v = &s->vcpu_info[0];

	v->pending = 0;			/* SITE pending-clear */
	events += take(v) & s->pending[0] & ~s->mask[0];
}

noinline uint64_t read_clock(void)
{
	struct vcpu_info *v = &HYPERVISOR_shared_info->vcpu_info[0];
	uint32_t version;
	uint64_t now;

	do {
		version = v->time.version;
		__asm__ volatile("lfence" ::: "memory");
		now = v->time.system;
		__asm__ volatile("lfence" ::: "memory");
	} while (version != v->time.version || (version & 1));
	return now;
}
