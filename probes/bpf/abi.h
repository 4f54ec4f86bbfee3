/*
 * The interface between the programs and their reader; probes/bpf/abi.py mirrors it, and a test compares
 * the two.  Neither this file nor any program names a kernel struct: they run on kernels whose headers are
 * not available.
 */
#ifndef XTRACE_ABI_H
#define XTRACE_ABI_H

/* What is counted, and the meaning of its id.  Times are nanoseconds of the monotonic clock. */
enum kind {
	UPCALL = 1,        /* always 0; entry to return of the upcall */
	DISPATCH = 2,      /* port; entry of the upcall to entry of the port's handler */
	PORT_HANDLER = 3,  /* port; entry to return of handle_irq_for_port */
	IRQ_HANDLER = 4,   /* irq; one action, irq_handler_entry to irq_handler_exit */
	LATE_EOI = 5,      /* irq; irq_handler_entry to xen_irq_lateeoi */
	SEND = 6,          /* irq; count of notify_remote_via_irq */
	IPI = 7,           /* vector << 16 | target vCPU; count of xen_send_IPI_one */
	DEVICE_EVENT = 8,  /* irq; count of evtchn_interrupt */
	PRIVCMD = 9,       /* number of the ioctl; entry to return */
	SOFTIRQ = 10,      /* vector; softirq_entry to softirq_exit */
	WAKE_TO_SWITCH = 11, /* irq; sched_wakeup to sched_switch of a thread that the irq's handler woke */
	VECTOR = 12,       /* vector of the local APIC; irq_vectors, entry to exit */
	SAMPLE = 13,       /* instruction pointer, only streamed */
	KINDS
};

enum counter {
	STREAMED = 0,      /* records put into the rings */
	DROPPED = 1,       /* records for which a ring had no room */
	NO_TALLY = 2,      /* not counted: no room for another (kind, id) */
	NO_BUCKET = 3,     /* counted, but not in the histogram: no room for another bucket */
	UNPAIRED = 4,      /* a begin without an end, or an end without a begin */
	COUNTERS
};

/*
 * A vCPU's clock may be held back to that of another, so a duration may read 0; those are counted
 * separately.
 */
struct tally {
	u64 count;         /* durations above 0, or occurrences */
	u64 sum_ns;
	u64 least_ns;      /* inverted, ~least: other CPUs' values start as 0, which must mean none */
	u64 most_ns;
	u64 zero_count;
};

/*
 * Records as they are in the rings.  With the 8 bytes that the ring puts before each, they take 32 and 64
 * bytes, so that CTF can treat those 8 as padding.
 */
struct event {
	u64 timestamp;     /* at the end of the duration */
	u64 kind_duration; /* kind in the lowest 8 bits, nanoseconds above */
	u32 id;
	u32 pid;           /* the current thread */
};

struct sample {
	u64 timestamp;
	u64 kind;
	u64 ip;
	u32 tgid;
	u32 pid;
	char comm[16];
	u64 flags;         /* RFLAGS; for a PV kernel Xen sets IF to the inverted upcall mask */
};

#define TALLY_KEY(kind, id) ((u64)(kind) << 32 | (u32)(id))
#define BUCKET_KEY(kind, id, bucket) ((u64)(kind) << 44 | (u64)(u32)(id) << 12 | (bucket))

/* As in analysis/summary/histogram.py: 64 buckets per octave, and one for each value below 64. */
static __always_inline u32 bucket_of(u64 value)
{
	u32 top = 0, shift;
	u64 rest = value;

	if (value < 64)
		return value;
	if (rest >> 32) {
		rest >>= 32;
		top += 32;
	}
	if (rest >> 16) {
		rest >>= 16;
		top += 16;
	}
	if (rest >> 8) {
		rest >>= 8;
		top += 8;
	}
	if (rest >> 4) {
		rest >>= 4;
		top += 4;
	}
	if (rest >> 2) {
		rest >>= 2;
		top += 2;
	}
	if (rest >> 1)
		top += 1;
	shift = top - 6;
	return 64 * (shift + 1) + (u32)(value >> shift) - 64;
}

#endif
