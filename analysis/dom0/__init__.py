"""dom0's own side of delivery: what bpf counted and sampled in its kernel."""
