/* The ways of recording a system call whose costs are compared: a count, a duration in a histogram, a streamed record. */
#include <uapi/linux/ptrace.h>
#include "measure.h"

static __always_inline bool is_load(void)
{
	return bpf_get_current_pid_tgid() >> 32 == LOAD_PID;
}

BPF_PERCPU_ARRAY(begins, u64, 1);

int nothing(struct bpf_raw_tracepoint_args *ctx)
{
	return 0;
}

int counted(struct bpf_raw_tracepoint_args *ctx)
{
	if (is_load())
		occurred(SEND, 1);
	return 0;
}

int begun(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 *begin = begins.lookup(&zero);

	if (begin && is_load())
		*begin = bpf_ktime_get_ns();
	return 0;
}

int ended(struct bpf_raw_tracepoint_args *ctx)
{
	u32 zero = 0;
	u64 *begin = begins.lookup(&zero);

	if (begin && *begin && is_load())
		measured(PRIVCMD, 1, *begin, bpf_ktime_get_ns());
	return 0;
}
