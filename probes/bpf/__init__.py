"""Programs that count and time in dom0's kernel, what loads them and drains their tables and rings.

bcc alone is needed; ctf_reader, which reads the traces back, needs NumPy.
"""
