/* As NetBSD does it, in C: curcpu() from the per-CPU segment, its ci_vcpu, fences out of line. */
#include "guest.h"

struct cpu_info {
	struct cpu_info *self;
	struct cpu_info *next;
	int depth, level;
	char other[0x140];
	struct vcpu_info *vcpu;
	void *softc;
};

/* A struct with a pointer at the same offset as the vcpu field. */
struct device {
	char head[offsetof(struct cpu_info, vcpu)];
	uint8_t *registers;
};

struct cpu_info *cpu_infos[8], *cpu_info_list;
struct device *the_device;
volatile unsigned long events;

inlined struct cpu_info *curcpu(void)
{
	struct cpu_info *ci;

	__asm__ volatile("mov %%" SEGMENT ":0x20, %0" : "=r"(ci));
	return ci;
}

noinline void outside(void)
{
	events++;
}

noinline void kpreempt_disable(void)
{
	curcpu()->depth++;
	barrier();
}

noinline void kpreempt_enable(void)
{
	barrier();
	curcpu()->depth--;
}

noinline void mask(void)
{
	struct vcpu_info *v = curcpu()->vcpu;

	v->mask = 1;			/* SITE mask fence=lfence/callee|tail-jump/after/all verdict=removable width=1 */
	x86_lfence();
}

noinline void mask_inline_fence(void)
{
	struct vcpu_info *v = curcpu()->vcpu;

	v->mask = 1;			/* SITE mask fence=mfence/inline/after/all verdict=removable */
	__asm__ volatile("mfence" ::: "memory");
}

noinline unsigned long save(void)
{
	return curcpu()->vcpu->mask;	/* SITE save */
}

noinline unsigned long save_and_mask(void)
{
	struct vcpu_info *v = curcpu()->vcpu;
	unsigned long was;

	was = v->mask;			/* SITE save */
	v->mask = 1;			/* SITE mask fence=lfence/callee/after/all verdict=removable */
	x86_lfence();
	return was;
}

noinline void unmask(void)
{
	struct vcpu_info *v = curcpu()->vcpu;

	v->mask = 0;			/* SITE unmask fence=lfence/callee/after/all verdict=removable tests=all callbacks=yes */
	x86_lfence();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void unmask_plain(void)
{
	struct vcpu_info *v = curcpu()->vcpu;

	barrier();
	v->mask = 0;			/* SITE unmask tests=all */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void unmask_reloads(void)
{
	struct cpu_info *ci = curcpu();

	ci->vcpu->mask = 0;		/* SITE unmask fence=mfence/callee/after/all verdict=removable tests=all */
	x86_mfence();
	if (ci->vcpu->pending)		/* SITE pending-test */
		force_callback();
}

noinline void unmask_guarded(void)
{
	struct vcpu_info *v;

	kpreempt_disable();
	v = curcpu()->vcpu;
	v->mask = 0;			/* SITE unmask tests=all cpu=guarded pointer=stable */
	barrier();
	if (v->pending)			/* SITE pending-test */
		force_callback();
	kpreempt_enable();
}

noinline void restore(unsigned long was)
{
	struct vcpu_info *v = curcpu()->vcpu;

	v->mask = (uint8_t)was;		/* SITE restore fence=lfence/callee/after/all verdict=removable tests=all */
	x86_lfence();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void restore_if_zero(unsigned long was)
{
	struct vcpu_info *v = curcpu()->vcpu;

	v->mask = (uint8_t)was;		/* SITE restore */
	barrier();
	if ((uint8_t)was != 0)
		return;
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

/* --- a helper that is inlined wherever it is called --- */

inlined uint8_t enter(struct vcpu_info *v)
{
	uint8_t was;

	was = v->mask;			/* SITE save in=first_section,second_section,third_section */
	v->mask = 1;			/* SITE mask in=first_section,second_section,third_section */
	barrier();
	return was;
}

inlined void leave(struct vcpu_info *v, uint8_t was)
{
	barrier();
	v->mask = was;			/* SITE restore fence=lfence/callee/after/all verdict=removable tests=all in=first_section,second_section,third_section */
	x86_lfence();
	if (v->pending)			/* SITE pending-test in=first_section,second_section,third_section */
		force_callback();
}

noinline void first_section(void)
{
	struct vcpu_info *v = curcpu()->vcpu;
	uint8_t was = enter(v);

	outside();
	leave(v, was);
}

noinline unsigned long second_section(unsigned long a, unsigned long b)
{
	struct vcpu_info *v = curcpu()->vcpu;
	uint8_t was = enter(v);

	events += a;
	outside();
	events -= b;
	leave(v, was);
	return a + b;
}

noinline void third_section(unsigned long *list)
{
	struct vcpu_info *v = curcpu()->vcpu;

	while (*list) {
		uint8_t was = enter(v);

		events += *list++;
		leave(v, was);
	}
}

/* --- whose vcpu_info it is --- */

static noinline void unmask_argument(struct vcpu_info *v)
{
	v->mask = 0;			/* SITE unmask fence=lfence/callee/after/all verdict=removable tests=all */
	x86_lfence();
	if (v->pending)			/* SITE pending-test */
		force_callback();
}

noinline void unmask_this(void)
{
	unmask_argument(curcpu()->vcpu);
}

noinline void unmask_cpu(struct cpu_info *ci)
{
	unmask_argument(ci->vcpu);
}

noinline void mask_every_cpu(void)
{
	struct cpu_info *ci;

	for (ci = cpu_info_list; ci; ci = ci->next)
		ci->vcpu->mask = 1;	/* SITE mask cpu=other */
}

noinline void mask_numbered_cpu(unsigned int cpu)
{
	cpu_infos[cpu]->vcpu->mask = 1;	/* SITE mask cpu=other */
}

noinline void send_to_cpu(struct cpu_info *ci)
{
	volatile unsigned long *word = (volatile unsigned long *)ci->vcpu;

	__asm__ volatile("lock bts" WORD " $0, %0" : "+m"(*word) :: "memory", "cc");	/* SITE pending-set fence=lock_bts/inline/access:keep verdict=keep */
}

noinline void handle(void)
{
	struct vcpu_info *v = curcpu()->vcpu;

	while (v->pending) {		/* SITE pending-test */
		v->pending = 0;		/* SITE pending-clear */
		events += take(v);
	}
}

/* --- no sites --- */

noinline void device_on(void)
{
	the_device->registers[1] = 1;
	x86_mfence();
}

noinline void device_off(struct device *device)
{
	device->registers[1] = 0;	/* SITE unmask? decoy=dwarf */
	x86_lfence();
	if (device->registers[0])	/* SITE pending-test? decoy=dwarf */
		outside();
}

noinline uint64_t read_clock(void)
{
	struct vcpu_info *v = curcpu()->vcpu;
	uint32_t version;
	uint64_t now;

	do {
		version = v->time.version;
		x86_lfence();
		now = v->time.system;
		x86_lfence();
	} while (version != v->time.version || (version & 1));
	return now;
}

noinline unsigned long fault_address(void)
{
	return curcpu()->vcpu->arch[0];
}
