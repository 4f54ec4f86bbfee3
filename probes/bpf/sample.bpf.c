/* Stream each CPU's instruction pointer when a perf event overflows. */
#include <uapi/linux/ptrace.h>
#include <uapi/linux/bpf_perf_event.h>
#include "measure.h"

int sampled(struct bpf_perf_event_data *ctx)
{
	u64 ids = bpf_get_current_pid_tgid();
	struct sample sample = {
		.timestamp = bpf_ktime_get_ns(),
		.kind = SAMPLE,
		.ip = ctx->regs.ip,
		.flags = ctx->regs.flags,
		.tgid = ids >> 32,
		.pid = ids,
	};

	if (sample.tgid == OWN_PID || !is_on())
		return 0;
	bpf_get_current_comm(&sample.comm, sizeof(sample.comm));
	stream(&sample, sizeof(sample));
	return 0;
}
