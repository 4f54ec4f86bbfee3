#ifndef XTRACE_SHIM_BPF_PERF_EVENT_H
#define XTRACE_SHIM_BPF_PERF_EVENT_H

/* include/uapi/linux/bpf_perf_event.h: the context of a program on a perf event. */
struct bpf_perf_event_data {
	struct pt_regs regs;
	__u64 sample_period;
	__u64 addr;
};

#endif
