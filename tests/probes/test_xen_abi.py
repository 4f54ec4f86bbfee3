"""The numbers that the code treats apart are those that the catalogue has names for."""

from __future__ import annotations

from xtrace.probes.catalog import names
from xtrace.probes.xen_abi import HYPERCALL_COUNT, Hypercall, SchedOp


def test_the_numbers_have_the_catalogues_names() -> None:
    assert {int(op): op.name.lower() for op in Hypercall}.items() <= names.HYPERCALLS.items()
    assert {int(op): op.name.lower() for op in SchedOp}.items() <= names.SCHED_OPS.items()
    assert max(names.HYPERCALLS) < HYPERCALL_COUNT
