/*
 * Unikraft and Mini-OS in C: flags saved and restored around what is inlined, pending events handled by hand in a
 * loop that masks and restores, and the same with the number of the CPU, as XenLinux and FreeBSD have it.
 */
#include "guest.h"

struct shared_info {
	struct vcpu_info vcpu_info[32];
	volatile unsigned long pending[8 * sizeof(long)], mask[8 * sizeof(long)];
};

struct shared_info *HYPERVISOR_shared_info;
volatile unsigned long events, in_callback;
volatile int locked;
volatile unsigned int queue[4];

noinline void outside(void)
{
	events++;
}

inlined struct vcpu_info *vcpu(void)
{
	return &HYPERVISOR_shared_info->vcpu_info[0];
}

inlined struct vcpu_info *numbered(void)
{
	unsigned int number;

	__asm__ volatile("movl %%" SEGMENT ":0x34, %0" : "=r"(number));
	return &HYPERVISOR_shared_info->vcpu_info[number];
}

/* --- the handler, and pending events handled by hand --- */

noinline void do_hypervisor_callback(void)
{
	struct vcpu_info *v = vcpu();
	unsigned long ready;

	in_callback = 1;
	v->pending = 0;			/* SITE pending-clear */
	ready = take(v);
	while (ready) {
		unsigned long bit = __builtin_ctzl(ready);
		unsigned long port;

		ready &= ~(1UL << bit);
		while ((port = HYPERVISOR_shared_info->pending[bit] & ~HYPERVISOR_shared_info->mask[bit])) {
			__atomic_fetch_and(&HYPERVISOR_shared_info->pending[bit], ~port, __ATOMIC_SEQ_CST);
			events += port;
		}
	}
	in_callback = 0;
}

noinline void handle_pending(void)
{
	struct vcpu_info *v = vcpu();
	int was = v->mask;		/* SITE save */

	while (v->pending) {		/* SITE pending-test */
		v->mask = 1;		/* SITE mask hazards=none */
		barrier();
		do_hypervisor_callback();
		barrier();
		v->mask = was;		/* SITE restore tests=all hazards=none */
		barrier();
	}
}

/* As FreeBSD and XenLinux do it: Xen delivers what is pending. */
noinline void enable_and_force(void)
{
	struct vcpu_info *v = vcpu();

	barrier();
	v->mask = 0;			/* SITE unmask tests=all callbacks=yes hazards=none */
	barrier();
	if (__builtin_expect(v->pending, 0))	/* SITE pending-test */
		force_callback();
}

/* --- the macros --- */

inlined void cli(void)
{
	vcpu()->mask = 1;		/* SITE mask hazards=none cpu=fixed */
	barrier();
}

inlined void sti(void)
{
	struct vcpu_info *v = vcpu();

	barrier();
	v->mask = 0;			/* SITE unmask tests=all hazards=none cpu=fixed */
	barrier();
	if (__builtin_expect(v->pending, 0))	/* SITE pending-test */
		handle_pending();
}

inlined int save_and_cli(void)
{
	struct vcpu_info *v = vcpu();
	int was = v->mask;		/* SITE save */

	v->mask = 1;			/* SITE mask hazards=none */
	barrier();
	return was;
}

inlined void restore_flags(int was)
{
	struct vcpu_info *v = vcpu();

	barrier();
	if ((v->mask = was) == 0) {	/* SITE restore hazards=none */
		barrier();
		if (__builtin_expect(v->pending, 0))	/* SITE pending-test */
			handle_pending();
	}
}

inlined void restore_numbered(int was)
{
	struct vcpu_info *v = numbered();

	barrier();
	if ((v->mask = was) == 0) {	/* SITE restore pointer=unstable hazards=none */
		barrier();
		if (__builtin_expect(v->pending, 0))	/* SITE pending-test */
			handle_pending();
	}
}

inlined int save_and_cli_numbered(void)
{
	struct vcpu_info *v = numbered();
	int was = v->mask;		/* SITE save */

	v->mask = 1;			/* SITE mask pointer=unstable hazards=none */
	barrier();
	return was;
}

/* --- and where they are inlined --- */

noinline void irq_disable(void)
{
	cli();
}

noinline void irq_enable(void)
{
	sti();
}

noinline int irq_save(void)
{
	return save_and_cli();
}

noinline void irq_restore(int was)
{
	restore_flags(was);
}

noinline int irqs_disabled(void)
{
	return vcpu()->mask;		/* SITE save */
}

noinline void push(unsigned int value)
{
	int was = save_and_cli();

	while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
		outside();
	queue[events & 3] = value;
	locked = 0;
	restore_flags(was);
}

/* Every way out restores. */
noinline unsigned int pop(unsigned int least)
{
	int was = save_and_cli();
	unsigned int value = queue[0];

	if (value < least) {
		restore_flags(was);
		return 0;
	}
	if (value & 1) {
		outside();
		restore_flags(was);
		return value >> 1;
	}
	queue[0] = 0;
	restore_flags(was);
	return value;
}

noinline void wait_for(volatile unsigned int *condition)
{
	for (;;) {
		int was = save_and_cli();

		if (*condition) {
			restore_flags(was);
			return;
		}
		outside();
		restore_flags(was);
	}
}

/* Masks, looks, and unmasks or blocks. */
noinline void idle(void)
{
	cli();
	if (queue[0])
		sti();
	else {
		outside();
		sti();
	}
}

noinline unsigned long add_numbered(unsigned long value)
{
	int was = save_and_cli_numbered();

	events += value;
	restore_numbered(was);
	return events;
}

/* Returns masked on purpose: its callers unmask. */
noinline int lock(void)
{
	int was = save_and_cli();

	while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE))
		;
	return was;
}

noinline void unlock(int was)
{
	locked = 0;
	restore_flags(was);
}

noinline void locked_work(void)
{
	int was = lock();

	outside();
	unlock(was);
}

/* Halts: it stays masked. */
noinline void stop(void)
{
	cli();
	for (;;)
		outside();
}
