/* As Linux does it, in C: a per-CPU vcpu_info, a per-CPU pointer to it, per_cpu(pointer, cpu). */
#include "guest.h"

__asm__(".pushsection .percpu, \"aw\", @progbits\n"
	".fill 0x1000, 1, 0\n"
	".globl xen_vcpu, xen_vcpu_info, preempt_count\n"
	".type xen_vcpu, @object\n"
	".type xen_vcpu_info, @object\n"
	".type preempt_count, @object\n"
	"xen_vcpu: .fill 8, 1, 0\n"
	".size xen_vcpu, 8\n"
	"preempt_count: .fill 8, 1, 0\n"
	".size preempt_count, 8\n"
	".balign 64\n"
	"xen_vcpu_info: .fill 64, 1, 0\n"
	".size xen_vcpu_info, 64\n"
	".popsection\n");

extern PER_CPU struct vcpu_info xen_vcpu_info;
extern struct vcpu_info *PER_CPU volatile xen_vcpu;
extern PER_CPU volatile int preempt_count;
unsigned long cpu_offset[8];
volatile unsigned long events;

noinline void outside(void)
{
	events++;
}

inlined struct vcpu_info *vcpu_of(unsigned int cpu)
{
	uintptr_t at = (uintptr_t)&xen_vcpu;

	return *(struct vcpu_info **)(at + cpu_offset[cpu]);
}

noinline void irq_disable(void)
{
	xen_vcpu_info.mask = 1;		/* SITE mask cpu=running width=1 */
	barrier();
}

noinline void irq_enable(void)
{
	barrier();
	xen_vcpu_info.mask = 0;		/* SITE unmask tests=all cpu=running pointer=stable */
	barrier();
	if (xen_vcpu_info.pending)	/* SITE pending-test */
		force_callback();
}

noinline void irq_enable_by_pointer(void)
{
	struct vcpu_info *v;

	preempt_count++;
	v = xen_vcpu;
	v->mask = 0;			/* SITE unmask fence=mfence/inline/after/all verdict=removable tests=all */
	__asm__ volatile("mfence" ::: "memory");
	if (v->pending)			/* SITE pending-test */
		force_callback();
	preempt_count--;
}

noinline unsigned long save_flags(void)
{
	struct vcpu_info *v = xen_vcpu;

	return v->mask ? 0 : 0x200;	/* SITE save|mask-test */
}

noinline void restore_flags(unsigned long flags)
{
	struct vcpu_info *v = xen_vcpu;
	uint8_t m = !(flags & 0x200);

	v->mask = m;			/* SITE restore|mask|unmask */
	barrier();
	if (m == 0) {
		if (v->pending)		/* SITE pending-test */
			force_callback();
	}
}

noinline int irqs_disabled(void)
{
	return xen_vcpu_info.mask != 0;	/* SITE save */
}

noinline void mask_cpu(unsigned int cpu)
{
	vcpu_of(cpu)->mask = 1;		/* SITE mask cpu=other */
}

noinline void upcall(void)
{
	struct vcpu_info *v = xen_vcpu;

	do {
		v->pending = 0;		/* SITE pending-clear */
		events += take(v);
	} while (v->pending);		/* SITE pending-test */
}

noinline uint64_t read_clock(void)
{
	struct vcpu_info *v = xen_vcpu;
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
