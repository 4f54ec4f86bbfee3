"""The instructions that touch vcpu_info: found, with the fences there and a verdict on each."""
