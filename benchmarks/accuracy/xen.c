/*
 * What Xen does to a PV guest's vcpu_info (x86-64): evtchn_2l_set_pending and vcpu_mark_events_pending
 * on the sender's CPU, the exit test and the bounce frame on the guest's, iret on return.
 *
 * A signal plays the IPI: its handler runs on the guest's CPU, between two of its instructions.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "guest.h"
#include "xen.h"

#define WORD_BITS 64
#define NS_PER_S 1000000000ul

struct xen_counts xen_counts;
static struct vcpu_info shared __attribute__((aligned(64)));
static struct cpu_info cpu0 __attribute__((aligned(64)));
static pthread_t vcpu_thread, sender_thread;
static uint64_t send_period_ns;
static int sender_cpu;
static volatile int stopping;

_Noreturn void refuse(const char *what)
{
	fprintf(stderr, "guest: %s: %s\n", what, strerror(errno));
	exit(1);
}

void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		refuse("cannot pin a thread");
}

/* Xen's test on exit to the guest: deliver as long as events are pending and upcalls not masked. */
static void exit_to_guest(struct vcpu_info *vcpu)
{
	while (vcpu->evtchn_upcall_pending && !vcpu->evtchn_upcall_mask) {
		COUNT(xen_counts.delivery);
		vcpu->evtchn_upcall_mask = 1;
		upcall();
		vcpu->evtchn_upcall_mask = 0;
	}
}

static void interrupt(int number)
{
	(void)number;
	COUNT(xen_counts.interrupt);
	if (shared.evtchn_upcall_mask)
		COUNT(xen_counts.masked);
	exit_to_guest(&shared);
}

/* Every hypercall ends with the exit test; this one, xen_version, does nothing else. */
__attribute__((used)) static long xen_version(void)
{
	exit_to_guest(&shared);
	return 0;
}

__asm__(".pushsection .text.hypercall_page, \"ax\", @progbits\n"
	".balign 4096\n"
	".globl hypercall_page\n"
	".type hypercall_page, @function\n"
	"hypercall_page:\n"
	".skip 17 * 32, 0xcc\n"
	"jmp xen_version\n"
	".balign 4096, 0xcc\n"
	".size hypercall_page, . - hypercall_page\n"
	".popsection\n");

/* Set a bit with a locked operation; return whether it was set before. */
static int test_and_set(volatile void *word, unsigned long bit)
{
	int was;

	__asm__ volatile("lock btsq %2, %1" : "=@ccc"(was), "+m"(*(volatile unsigned long *)word) : "r"(bit) : "memory");
	return was;
}

static void send(unsigned long port)
{
	xen_counts.sent++;
	if (test_and_set(&shared.evtchn_pending_sel, port)) {
		xen_counts.merged++;
		return;
	}
	/* Bit 0 of the first word is the lowest bit of evtchn_upcall_pending. */
	if (test_and_set(&shared.evtchn_upcall_pending, 0))
		return;
	xen_counts.kick++;
	if (pthread_kill(vcpu_thread, SIGUSR1))
		refuse("cannot kick the vCPU");
}

static void *send_events(void *argument)
{
	struct timespec at;
	unsigned short seed[3] = {1, 2, 3};

	(void)argument;
	pin(sender_cpu);
	prctl(PR_SET_TIMERSLACK, 1);
	clock_gettime(CLOCK_MONOTONIC, &at);
	for (unsigned long port = 0; !port || !stopping; port++) {
		uint64_t next = (uint64_t)at.tv_nsec + (uint64_t)(-log(1 - erand48(seed)) * (double)send_period_ns);

		at.tv_sec += (time_t)(next / NS_PER_S);
		at.tv_nsec = (long)(next % NS_PER_S);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
		send(port % WORD_BITS);
	}
	return NULL;
}

void xen_start(int cpu, uint64_t period_ns)
{
	struct sigaction action = {.sa_handler = interrupt};

	cpu0.ci_self = &cpu0;
	cpu0.ci_vcpu = &shared;
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, &cpu0))
		refuse("cannot set the segment base");
	vcpu_thread = pthread_self();
	if (sigaction(SIGUSR1, &action, NULL))
		refuse("cannot handle the kick");
	sender_cpu = cpu;
	send_period_ns = period_ns;
	if (period_ns && (errno = pthread_create(&sender_thread, NULL, send_events, NULL)))
		refuse("cannot start the sender");
}

void xen_stop(void)
{
	stopping = 1;
	if (send_period_ns)
		pthread_join(sender_thread, NULL);
}

int xen_pending(void)
{
	return shared.evtchn_upcall_pending || shared.evtchn_pending_sel || shared.evtchn_upcall_mask;
}
