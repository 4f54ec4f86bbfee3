"""Find the instructions that touch vcpu_info, the fences at them, and give a verdict on each fence."""
