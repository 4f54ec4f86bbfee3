"""BPF programs that count and time in dom0's kernel; load them and drain their tables and rings.

Only bcc is needed, and NumPy for ctf_reader, which reads the traces back.
"""
