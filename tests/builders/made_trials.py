"""Make results of trials by hand, with plain defaults for what a test does not set."""

from __future__ import annotations

from typing import Any

from xtrace.analysis.trial.result import MARK, Group, Interval, Result
from xtrace.symbols.patching.exchange import Exchange, Refusal

SAVED = Interval(0.0031, 0.0027, 0.0035)
NOTHING = Interval(0.0001, -0.0003, 0.0004)


def group(name: str = "all", kind: str = "all", saved: Interval | None = None, **changes: Any) -> Group:
    saved = saved or (NOTHING if kind == "again" else SAVED)
    values: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "exchange_count": 0 if kind == "again" else 12,
        "fence_count": 0 if kind == "again" else 12,
        "saved": saved,
        "saved_ns": saved.times(100.0),
        "saved_cycles": saved.times(230.0),
        "unit_ns": Interval(100 * (1 - saved.value), 90 * (1 - saved.value), 110 * (1 - saved.value)),
        "p": 0.5 if kind == "again" else 0.0001,
        "clipped_count": 3,
    }
    return Group(**values | changes)


def result(**changes: Any) -> Result:
    values: dict[str, Any] = {
        "mark": MARK,
        "timing": "hardware",
        "host": {
            "cpu_model": "A processor",
            "hypervisor": "none seen",
            "kernel": "Linux 6",
            "microcode": "1",
        },
        "date": "2026-01-01T00:00:00+00:00",
        "xtrace": "0",
        "image": "guest",
        "image_sha256": "0" * 64,
        "build_id": "ab" * 20,
        "target": "process 42 guest",
        "counter": "units",
        "covariates": (),
        "tsc_hz": 2.3e9,
        "verdicts": ("removable",),
        "fence_count": 12,
        "kept_count": 2,
        "unit_ns": Interval(100.0, 90.0, 110.0),
        "unit_cycles": Interval(230.0, 207.0, 253.0),
        "unit_count": 123_456,
        "carried": Interval(0.0002, -0.0004, 0.0008),
        "block_count": 900,
        "slice_s": 0.001,
        "seconds": 3.5,
        "lengthened_count": 0,
        "idle_count": 0,
        "ended_by": "precision",
        "seed": 0,
        "precision": 0.001,
        "running_ratio": 0.99,
        "groups": (group("A/A", "again"), group()),
        "exchanged": (
            Exchange(
                0x4010, b"\x0f\xae\xe8", b"\x0f\x1f\x00", "lfence -> nop", "mask", "lfence", "", (0x4000,)
            ),
        ),
        "refused": (Refusal(0x4020, "unmask+0x4", "lock add", "the flags that lock add sets may be used"),),
        "doses": (),
        "added_ns": None,
        "notes": (),
    }
    return Result(**values | changes)
