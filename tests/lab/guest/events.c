/* Event channels with 2-level bitmaps (xen/include/public/xen.h, struct shared_info). */
#include "guest.h"

#define WORD_BITS 64
#define LOG_MOST 4096

struct shared_info shared_info __attribute__((aligned(PAGE_BYTES)));
volatile struct counters counters __attribute__((aligned(PAGE_BYTES)));
static struct cpu_info cpu0;
static u64 log_most, log_count;
static struct { u64 begin, end; } log_tsc[LOG_MOST];

void events_start(struct vcpu_info *vcpu)
{
	cpu0.ci_self = &cpu0;
	cpu0.ci_vcpu = vcpu;
	hypercall(XEN_SET_SEGMENT_BASE, SEGBASE_GS_KERNEL, (u64)&cpu0, 0);
	for (int word = 0; word < WORD_BITS; word++)
		shared_info.evtchn_mask[word] = ~0ul;
	hypercall(XEN_SET_CALLBACKS, (u64)hypervisor_callback, (u64)failsafe_callback, (u64)syscall_callback);
}

static void clear(volatile u64 *words, u32 port)
{
	__asm__ volatile("lock btrq %1, %0" : "+m"(words[port / WORD_BITS]) : "r"((u64)port % WORD_BITS) : "cc");
}

/* Let a fresh port's events in, without the one that bind_interdomain makes up. */
void events_open(u32 port)
{
	clear(shared_info.evtchn_pending, port);
	clear(shared_info.evtchn_mask, port);
}

u32 events_bind_virq(u32 virq)
{
	struct evtchn_bind_virq bind = {.virq = virq};
	if (hypercall(XEN_EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, (u64)&bind, 0))
		refuse("cannot bind a virtual interrupt", "");
	events_open(bind.port);
	return bind.port;
}

void events_send(u32 port)
{
	hypercall(XEN_EVENT_CHANNEL_OP, EVTCHNOP_SEND, (u64)&port, 0);
}

/* Keep the TSC at the begin and end of so many upcalls. */
void events_log(u64 most)
{
	if (most > LOG_MOST)
		refuse("cannot keep so many upcalls", "");
	log_most = most;
}

void events_print_log(void)
{
	for (u64 i = 0; i < log_count; i++) {
		print("xtrace-guest: upcall ");
		print_number(log_tsc[i].begin);
		print(" ");
		print_number(log_tsc[i].end);
		print("\n");
	}
}

static void handle(u32 port)
{
	clear(shared_info.evtchn_pending, port);
	timer_event(port);
	ping_event(port);
	console_event(port);
}

static __attribute__((noinline)) void take_events(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	u64 selector = 0;

	vcpu->evtchn_upcall_pending = 0;
	__asm__ volatile("xchgq %0, %1" : "+r"(selector), "+m"(vcpu->evtchn_pending_sel) : : "memory");
	if (!selector)
		COUNT(empty_upcall);
	for (; selector; selector &= selector - 1) {
		u32 word = __builtin_ctzl(selector);
		u64 ready = shared_info.evtchn_pending[word] & ~shared_info.evtchn_mask[word];
		for (; ready; ready &= ready - 1)
			handle(word * WORD_BITS + __builtin_ctzl(ready));
	}
}

/* Called by hypervisor_callback, with upcalls masked by Xen. */
void evtchn_upcall(void)
{
	int logged = log_count < log_most;

	if (logged)
		log_tsc[log_count].begin = __builtin_ia32_rdtsc();
	COUNT(upcall);
	take_events();
	if (logged)
		log_tsc[log_count++].end = __builtin_ia32_rdtsc();
}
