/* Event channels with 2-level bitmaps (xen/include/public/xen.h, struct shared_info). */
#include "guest.h"

#define WORD_BITS 64
#define LOG_MOST 4096

struct shared_info shared_info __attribute__((aligned(PAGE_BYTES)));
volatile struct counters counters __attribute__((aligned(PAGE_BYTES)));
static struct cpu_info cpu0;
static u64 log_most, log_count, sent_count;
static struct { u64 begin, end, ports; } logged_upcall[LOG_MOST];
static struct { u64 tsc, port; } logged_send[LOG_MOST];

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

/* Unmask a new port, and drop the event that bind_interdomain itself sets pending. */
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
	/* A single instruction, because upcalls send too. */
	u64 slot = 1;
	__asm__ volatile("xaddq %0, %1" : "+r"(slot), "+m"(sent_count) : : "cc");
	if (slot < log_most) {
		logged_send[slot].port = port;
		logged_send[slot].tsc = __builtin_ia32_rdtsc();
	}
	hypercall(XEN_EVENT_CHANNEL_OP, EVTCHNOP_SEND, (u64)&port, 0);
}

/* Log the TSC at the begin and end of the first `most` upcalls, and of the first `most` sends. */
void events_log(u64 most)
{
	if (most > LOG_MOST)
		refuse("log= is too large", "");
	log_most = most;
}

static void print_numbers(const char *before, u64 one, u64 other)
{
	print(before);
	print_number(one);
	print(" ");
	print_number(other);
}

void events_print_log(void)
{
	/* Printing sends events too. */
	u64 sent = sent_count < log_most ? sent_count : log_most;

	for (u64 i = 0; i < log_count; i++) {
		print_numbers("xtrace-guest: upcall ", logged_upcall[i].begin, logged_upcall[i].end);
		print(" ");
		print_number(logged_upcall[i].ports);
		print("\n");
	}
	for (u64 i = 0; i < sent; i++) {
		print_numbers("xtrace-guest: send ", logged_send[i].tsc, logged_send[i].port);
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

/* Handle the pending events and return a bitmap of their ports below 64. */
static __attribute__((noinline)) u64 take_events(void)
{
	struct vcpu_info *vcpu = this_vcpu();
	u64 selector = 0, taken = 0;

	vcpu->evtchn_upcall_pending = 0;
	__asm__ volatile("xchgq %0, %1" : "+r"(selector), "+m"(vcpu->evtchn_pending_sel) : : "memory");
	if (!selector)
		COUNT(empty_upcall);
	for (; selector; selector &= selector - 1) {
		u32 word = __builtin_ctzl(selector);
		u64 ready = shared_info.evtchn_pending[word] & ~shared_info.evtchn_mask[word];
		taken |= word ? 0 : ready;
		for (; ready; ready &= ready - 1)
			handle(word * WORD_BITS + __builtin_ctzl(ready));
	}
	return taken;
}

/* Called by hypervisor_callback; Xen has masked upcalls. */
void evtchn_upcall(void)
{
	u64 begin = log_count < log_most ? __builtin_ia32_rdtsc() : 0;

	COUNT(upcall);
	u64 ports = take_events();
	if (begin) {
		logged_upcall[log_count].begin = begin;
		logged_upcall[log_count].ports = ports;
		logged_upcall[log_count++].end = __builtin_ia32_rdtsc();
	}
}
