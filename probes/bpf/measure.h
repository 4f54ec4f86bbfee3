/* The tables that programs count into, and the rings that they stream into. */
#include "abi.h"

/* TALLIES, BUCKETS and OWN_PID are given by the loader. */
BPF_TABLE("percpu_hash", u64, struct tally, tallies, TALLIES);
BPF_TABLE("percpu_hash", u64, u64, buckets, BUCKETS);
BPF_PERCPU_ARRAY(counters, u64, COUNTERS);
/* 1 once all programs are attached until before the first is detached, so that all count the same period. */
BPF_ARRAY(recording, u32, 1);

/* Interrupts may come in between, so what several contexts update is updated in one instruction. */
#define ADD(place, much) __sync_fetch_and_add(&(place), (much))

static __always_inline bool is_on(void)
{
	u32 zero = 0, *on = recording.lookup(&zero);

	return on && *on;
}

static __always_inline void count_up(u32 which)
{
	u64 *counter = counters.lookup(&which);

	if (counter && is_on())
		ADD(*counter, 1);
}

#ifdef STREAM
/* One ring per CPU, so that its records are in order; filled in by the loader. */
BPF_RINGBUF_OUTPUT(ring_template, 1);
BPF_ARRAY_OF_MAPS(rings, "ring_template", CPUS);

static __always_inline void stream(void *record, u64 size)
{
	u32 cpu = bpf_get_smp_processor_id();
	void *ring = rings.lookup(&cpu);

	/* No wake-up: it would cost some microseconds per event and cause events of its own. */
	if (ring && !bpf_ringbuf_output(ring, record, size, BPF_RB_NO_WAKEUP))
		count_up(STREAMED);
	else
		count_up(DROPPED);
}
#endif

static __always_inline void stream_event(u32 kind, u32 id, u64 now, u64 duration_ns)
{
#ifdef STREAM
	struct event event = {
		.timestamp = now,
		.kind_duration = duration_ns << 8 | kind,
		.id = id,
		.pid = bpf_get_current_pid_tgid(),
	};

	stream(&event, sizeof(event));
#endif
}

static __always_inline struct tally *tally_of(u32 kind, u32 id)
{
	u64 key = TALLY_KEY(kind, id);
	struct tally *tally = tallies.lookup(&key);

	if (!tally) {
		struct tally none = {};

		tallies.insert(&key, &none);
		tally = tallies.lookup(&key);
		if (!tally)
			count_up(NO_TALLY);
	}
	return tally;
}

/* Count one occurrence that has no duration. */
static __always_inline void occurred(u32 kind, u32 id)
{
	struct tally *tally;

	if (!is_on())
		return;
	tally = tally_of(kind, id);
	if (tally)
		ADD(tally->count, 1);
	stream_event(kind, id, bpf_ktime_get_ns(), 0);
}

/* Count a duration from begin to now. */
static __always_inline void measured(u32 kind, u32 id, u64 begin, u64 now)
{
	u64 ns = now > begin ? now - begin : 0;
	struct tally *tally;
	u64 key, one = 1, *bucket;

	if (!is_on())
		return;
	tally = tally_of(kind, id);
	stream_event(kind, id, now, ns);
	if (!tally)
		return;
	if (!ns) {
		ADD(tally->zero_count, 1);
		return;
	}
	ADD(tally->count, 1);
	ADD(tally->sum_ns, ns);
	if (~ns > tally->least_ns)
		tally->least_ns = ~ns;
	if (ns > tally->most_ns)
		tally->most_ns = ns;
	key = BUCKET_KEY(kind, id, bucket_of(ns));
	bucket = buckets.lookup(&key);
	if (!bucket) {
		u64 none = 0;

		buckets.insert(&key, &none);
		bucket = buckets.lookup(&key);
	}
	if (bucket)
		ADD(*bucket, one);
	else
		count_up(NO_BUCKET);
}
