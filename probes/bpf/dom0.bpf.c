/*
 * dom0's side of event delivery: from the upcall's entry to the handler of each port, to the late EOI, to
 * the thread that the handler wakes; and the events that dom0 sends.  functions.py chooses the kernel
 * function that each program is attached to.
 */
#include <uapi/linux/ptrace.h>
#include "measure.h"

#define DEEPEST 4 /* a power of 2, because the verifier needs a mask */

/* The state of this CPU.  An upcall may arrive while softirqs run at the end of another one. */
struct now {
	u64 upcall_ns[DEEPEST];
	u64 port_ns;
	u64 irq_ns;
	u64 softirq_ns;
	u64 vector_ns;
	u32 depth;
	u32 port;          /* + 1; 0: none */
	u32 irq;           /* + 1; 0: none */
	u32 unused;
};

struct call {
	u64 begin_ns;
	u32 number;
	u32 unused;
};

struct woken {
	u64 wakeup_ns;
	u32 irq;
	u32 unused;
};

BPF_PERCPU_ARRAY(states, struct now, 1);
BPF_HASH(irq_of_port, u32, u32, 4096);
BPF_HASH(eoi_begins, u32, u64, 4096);
BPF_HASH(calls, u32, struct call, 4096);
BPF_HASH(woken_threads, u32, struct woken, 4096);

static __always_inline struct now *state(void)
{
	u32 zero = 0;

	return states.lookup(&zero);
}

int upcall_enter(struct pt_regs *ctx)
{
	struct now *now = state();
	u32 depth;

	if (!now)
		return 0;
	depth = now->depth++;
	if (depth < DEEPEST)
		now->upcall_ns[depth & (DEEPEST - 1)] = bpf_ktime_get_ns();
	return 0;
}

int upcall_return(struct pt_regs *ctx)
{
	struct now *now = state();
	u32 depth;

	if (!now)
		return 0;
	depth = now->depth;
	if (!depth) {
		/* It was running when the recording started. */
		count_up(UNPAIRED);
		return 0;
	}
	now->depth = --depth;
	if (depth < DEEPEST)
		measured(UPCALL, 0, now->upcall_ns[depth & (DEEPEST - 1)], bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	return 0;
}

int port_enter(struct pt_regs *ctx)
{
	u32 port = PT_REGS_PARM1(ctx);
	struct now *now = state();
	u32 inner;

	if (!now)
		return 0;
	now->port_ns = bpf_ktime_get_ns();
	now->port = port + 1;
	inner = now->depth - 1;
	if (inner < DEEPEST)
		measured(DISPATCH, port, now->upcall_ns[inner & (DEEPEST - 1)], now->port_ns);
	return 0;
}

int port_return(struct pt_regs *ctx)
{
	struct now *now = state();

	if (!now)
		return 0;
	if (now->port)
		measured(PORT_HANDLER, now->port - 1, now->port_ns, bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	now->port = 0;
	return 0;
}

/* Raw tracepoints: they may nest, and the irq number is an argument, so no kernel struct is needed. */
int irq_enter(struct bpf_raw_tracepoint_args *ctx)
{
	u32 irq = ctx->args[0], port, *known;
	struct now *now = state();
	u64 *eoi;

	if (!now)
		return 0;
	now->irq_ns = bpf_ktime_get_ns();
	now->irq = irq + 1;
	if (now->port) {
		port = now->port - 1;
		known = irq_of_port.lookup(&port);
		if (!known || *known != irq)
			irq_of_port.update(&port, &irq);
	}
	eoi = eoi_begins.lookup(&irq);
	if (eoi)
		*eoi = now->irq_ns;
	return 0;
}

int irq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u32 irq = ctx->args[0];
	struct now *now = state();

	if (!now)
		return 0;
	if (now->irq == irq + 1)
		measured(IRQ_HANDLER, irq, now->irq_ns, bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	now->irq = 0;
	return 0;
}

int late_eoi(struct pt_regs *ctx)
{
	u32 irq = PT_REGS_PARM1(ctx);
	u64 *begin = eoi_begins.lookup(&irq), none = 0;

	if (!begin) {
		/* From the next interrupt on, irq_enter() notes when its handler begins. */
		eoi_begins.update(&irq, &none);
		count_up(UNPAIRED);
	} else if (*begin) {
		measured(LATE_EOI, irq, *begin, bpf_ktime_get_ns());
		*begin = 0;
	} else {
		count_up(UNPAIRED);
	}
	return 0;
}

static __always_inline bool is_own(void)
{
	return bpf_get_current_pid_tgid() >> 32 == OWN_PID;
}

int send(struct pt_regs *ctx)
{
	occurred(SEND, PT_REGS_PARM1(ctx));
	return 0;
}

int send_ipi(struct pt_regs *ctx)
{
	occurred(IPI, (u32)PT_REGS_PARM2(ctx) << 16 | (PT_REGS_PARM1(ctx) & 0xffff));
	return 0;
}

int device_event(struct pt_regs *ctx)
{
	occurred(DEVICE_EVENT, PT_REGS_PARM1(ctx));
	return 0;
}

int privcmd_enter(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct call call = { .begin_ns = bpf_ktime_get_ns(), .number = PT_REGS_PARM2(ctx) & 0xff };

	if (!is_own() && calls.update(&thread, &call))
		count_up(UNPAIRED);
	return 0;
}

int privcmd_return(struct pt_regs *ctx)
{
	u32 thread = bpf_get_current_pid_tgid();
	struct call *call;

	if (is_own())
		return 0;
	call = calls.lookup(&thread);
	if (!call) {
		count_up(UNPAIRED);
		return 0;
	}
	measured(PRIVCMD, call->number, call->begin_ns, bpf_ktime_get_ns());
	calls.delete(&thread);
	return 0;
}

int softirq_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct now *now = state();

	if (now)
		now->softirq_ns = bpf_ktime_get_ns();
	return 0;
}

int softirq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct now *now = state();

	if (!now)
		return 0;
	if (now->softirq_ns)
		measured(SOFTIRQ, ctx->args[0], now->softirq_ns, bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	now->softirq_ns = 0;
	return 0;
}

int vector_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct now *now = state();

	if (now)
		now->vector_ns = bpf_ktime_get_ns();
	return 0;
}

int vector_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct now *now = state();

	if (!now)
		return 0;
	if (now->vector_ns)
		measured(VECTOR, ctx->args[0], now->vector_ns, bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	now->vector_ns = 0;
	return 0;
}

#ifdef SCHED
/* bcc generates these structs from the running kernel's tracepoint formats. */
int waking(struct tracepoint__sched__sched_waking *args)
{
	u32 thread = args->pid;
	struct now *now = state();
	struct woken woken = {};

	/* Only here is the waker known: another CPU may do the wake-up itself. */
	if (!now || !now->irq || thread == OWN_PID)
		return 0;
	woken.irq = now->irq - 1;
	if (woken_threads.update(&thread, &woken))
		count_up(UNPAIRED);
	return 0;
}

int wakeup(struct tracepoint__sched__sched_wakeup *args)
{
	u32 thread = args->pid;
	struct woken *woken = woken_threads.lookup(&thread);

	if (woken && !woken->wakeup_ns)
		woken->wakeup_ns = bpf_ktime_get_ns();
	return 0;
}

int switched(struct tracepoint__sched__sched_switch *args)
{
	u32 from = args->prev_pid, to = args->next_pid;
	struct woken *woken = from ? woken_threads.lookup(&from) : 0;

	/* It was woken while it still ran, so it never waited. */
	if (woken)
		woken_threads.delete(&from);
	woken = to ? woken_threads.lookup(&to) : 0;
	if (!woken)
		return 0;
	if (woken->wakeup_ns)
		measured(WAKE_TO_SWITCH, woken->irq, woken->wakeup_ns, bpf_ktime_get_ns());
	else
		count_up(UNPAIRED);
	woken_threads.delete(&to);
	return 0;
}
#endif
