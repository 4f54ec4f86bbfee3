"""The ways to record, one module each: xentrace, bpf, perf, xenctx; and the interface that they share."""
