"""Query and control the Xen host from dom0: its domains, tools, trace buffers and TSC."""
