"""TRC_MEM: grants, the p2m and populate-on-demand.

Source: xen/common/{grant_table,memory}.c, xen/arch/x86/mm/p2m-{pt,pod}.c
(xen/arch/x86/mm/p2m.c in 4.0 and 4.1).  Only grants are timed.

Since 4.18 domain and order have a word each, in records of the same length; before,
they share a word and the next one is stale.
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.table import define, lay
from xtrace.probes.format import TraceClass

_grant = define(TraceClass.MEM, "xen/common/grant_table.c")
_mem = define(TraceClass.MEM, "xen/arch/x86/mm/p2m-pod.c")

_GFN = "gfn:w0-w1:hex"
_GFN_MFN = "gfn:w0-w1:hex mfn:w2-w3:hex"

EVENTS = (
    _grant(ids.MEM_PAGE_GRANT_MAP, "mem_page_grant_map", "TRC_MEM_PAGE_GRANT_MAP",
           lay("4.0+", 1, "dom:w0"), note="dom is the granting domain"),
    _grant(ids.MEM_PAGE_GRANT_UNMAP, "mem_page_grant_unmap", "TRC_MEM_PAGE_GRANT_UNMAP",
           lay("4.0+", 1, "dom:w0"), note="dom is the granting domain"),
    _grant(ids.MEM_PAGE_GRANT_TRANSFER, "mem_page_grant_transfer", "TRC_MEM_PAGE_GRANT_TRANSFER",
           lay("4.0+", 1, "dom:w0"), note="dom is the receiving domain"),
    _mem(ids.MEM_SET_P2M_ENTRY, "mem_set_p2m_entry", "TRC_MEM_SET_P2M_ENTRY",
         lay("4.0+", 6, f"{_GFN_MFN} p2m_type:w4 dom:w5[15:0] order:w5[31:16]", timed=False),
         source="xen/arch/x86/mm/p2m-pt.c"),
    _mem(ids.MEM_DECREASE_RESERVATION, "mem_decrease_reservation", "TRC_MEM_DECREASE_RESERVATION",
         lay("4.0-4.17", 4, f"{_GFN} dom:w2[15:0] order:w2[31:16]", timed=False),
         lay("4.18+", 4, f"{_GFN} dom:w2 order:w3", timed=False),
         source="xen/common/memory.c"),
    _mem(ids.MEM_POD_POPULATE, "mem_pod_populate", "TRC_MEM_POD_POPULATE",
         lay("4.0-4.17", 6, f"{_GFN_MFN} dom:w4[15:0] order:w4[31:16]", timed=False),
         lay("4.18+", 6, f"{_GFN_MFN} dom:w4 order:w5", timed=False)),
    _mem(ids.MEM_POD_ZERO_RECLAIM, "mem_pod_zero_reclaim", "TRC_MEM_POD_ZERO_RECLAIM",
         lay("4.0-4.17", 6, f"{_GFN_MFN} dom:w4[15:0] order:w4[31:16]", timed=False),
         lay("4.18+", 6, f"{_GFN_MFN} dom:w4 order:w5", timed=False)),
    _mem(ids.MEM_POD_SUPERPAGE_SPLINTER, "mem_pod_superpage_splinter", "TRC_MEM_POD_SUPERPAGE_SPLINTER",
         # no order before 4.18
         lay("4.0-4.17", 4, f"{_GFN} dom:w2[15:0]", timed=False),
         lay("4.18+", 4, f"{_GFN} dom:w2 order:w3", timed=False)),
)  # fmt: skip
