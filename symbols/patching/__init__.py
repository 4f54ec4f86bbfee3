"""What of a kernel's code can be exchanged at run time, and for which bytes."""
