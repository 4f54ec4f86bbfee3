"""Analyze traces of live Xen hosts: how events are delivered, what upcalls take, what guests' fences cost.

The public interface is what :mod:`xtrace.probes`, :mod:`xtrace.analysis` and :mod:`xtrace.symbols` list in
their ``__all__``; docs/library.md shows it at work.  All else is internal and changes without notice.
"""

__version__ = "0.1.0"
