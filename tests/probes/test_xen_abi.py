"""The numbers in xen_abi agree with the catalogue's names."""

from __future__ import annotations

from xtrace.probes.catalog import names
from xtrace.probes.xen_abi import HYPERCALL_COUNT, Hypercall, SchedOp


def test_numbers_match_the_names_in_the_catalogue() -> None:
    assert {int(op): op.name.lower() for op in Hypercall}.items() <= names.HYPERCALLS.items()
    assert {int(op): op.name.lower() for op in SchedOp}.items() <= names.SCHED_OPS.items()
    assert max(names.HYPERCALLS) < HYPERCALL_COUNT
