"""Analyse traces of live Xen hosts: how events are delivered, how long upcalls take, what fences cost guests.

The public interface is what :mod:`xtrace.probes`, :mod:`xtrace.analysis` and :mod:`xtrace.symbols` list in
their ``__all__``; docs/library.md shows how to use it.  Everything else is internal and may change without
notice.
"""

__version__ = "0.1.0"
