"""The ways to record: xentrace, bpf, perf, xenctx."""
