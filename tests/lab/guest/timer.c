/*
 * Ticks by VCPUOP_set_singleshot_timer, each due one period after the last: the run's length determines
 * their number, however late each tick is.
 */
#include "guest.h"

static u32 timer_port;
static u64 period_ns, next_ns, end_ns;
static volatile int ticks, over;

/* Return system time; the vCPU reads its own copy, so only the compiler's ordering matters. */
u64 now_ns(void)
{
	volatile struct vcpu_time_info *time = &this_vcpu()->time;
	u32 version;
	u64 ns;

	do {
		version = time->version;
		u64 cycles = __builtin_ia32_rdtsc() - time->tsc_timestamp;
		int shift = time->tsc_shift;
		cycles = shift < 0 ? cycles >> -shift : cycles << shift;
		ns = time->system_time_ns + (u64)((unsigned __int128)cycles * time->tsc_to_system_mul >> 32);
	} while (version & 1 || version != time->version);
	return ns;
}

static void set(void)
{
	struct vcpu_set_singleshot_timer timer = {.timeout_abs_ns = next_ns};
	COUNT(timer_set);
	hypercall(XEN_VCPU_OP, VCPUOP_SET_SINGLESHOT_TIMER, 0, (u64)&timer);
}

/* Tick for a duration; 0 for no end, a period of 0 for one tick at the end. */
void timer_start(u64 period, u64 duration)
{
	/* Xen's periodic timer of 10 ms runs until it is stopped. */
	hypercall(XEN_VCPU_OP, VCPUOP_STOP_PERIODIC_TIMER, 0, 0);
	timer_port = events_bind_virq(VIRQ_TIMER);
	period_ns = period ? period : duration;
	over = !duration;
	ticks = period_ns != 0;
	if (ticks) {
		next_ns = now_ns();
		end_ns = duration ? next_ns + duration : ~0ul;
		next_ns += period_ns;
		set();
	}
}

/* Return whether there will be another tick. */
int timer_ticks(void)
{
	return ticks;
}

/* Return whether the duration, if any, is over. */
int timer_over(void)
{
	return over;
}

void timer_event(u32 port)
{
	if (port != timer_port)
		return;
	COUNT(timer_event);
	if (next_ns >= end_ns) {
		over = 1;
		ticks = 0;
	} else {
		next_ns += period_ns;
		set();
	}
}
