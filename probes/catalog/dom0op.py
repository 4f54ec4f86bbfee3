"""TRC_DOM0OP: domains that are created and destroyed.

Source: xen/common/domain.c, since 4.7.
"""

from __future__ import annotations

from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_dom0op = define(TraceClass.DOM0OP, "xen/common/domain.c")

EVENTS = (
    _dom0op(0x41001, "dom0_dom_add", "TRC_DOM0_DOM_ADD", lay("4.7+", 1, "dom:w0")),
    _dom0op(0x41002, "dom0_dom_rem", "TRC_DOM0_DOM_REM", lay("4.7+", 1, "dom:w0")),
)
