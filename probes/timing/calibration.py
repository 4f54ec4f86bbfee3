"""The JSON file that `xtrace calibrate` writes: the cycles that each fence adds in its context.

The file is one JSON object: ``schema_version`` and the fields of Calibration, rows as objects.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from xtrace.probes.errors import TraceError

SCHEMA_VERSION = 1

#: What is in flight when the sequence begins; "site" is the site's own preceding instructions.
CONTEXTS = (
    "empty",
    "stores_8",
    "stores_40",
    "store_miss_1",
    "store_miss_4",
    "load_miss_1",
    "store_stream_1",
    "store_stream_4",
    "nt_stream_1",
    "nt_stream_8",
    "cold_chain_2",
    "cold_chain_4",
    "alu_chain",
    "alu_fresh",
    "alu_fresh_180",
    "site",
)
#: Contexts in which nothing waits for memory.
HOT_CONTEXTS = ("empty", "stores_8", "stores_40", "alu_chain", "alu_fresh", "alu_fresh_180", "site")
#: Contexts in which the amount that memory takes at once varies, so that intervals are hardly ever tight.
STREAM_CONTEXTS = ("store_stream_1", "store_stream_4", "nt_stream_1", "nt_stream_8")
#: Contexts with loads that miss the TLB too; they need much memory, and --quick leaves them out.
COLD_CONTEXTS = ("cold_chain_2", "cold_chain_4")
#: Contexts whose figures differ from run to run by more than within one: measured in several runs.
VARYING_CONTEXTS = ("store_miss_1", "store_miss_4", *STREAM_CONTEXTS, *COLD_CONTEXTS)
#: Contexts in which two sites close together are measured: one of each sort.
CLOSE_CONTEXTS = ("empty", "stores_8", "store_miss_1", "load_miss_1", "cold_chain_2", "alu_fresh")
KINDS = ("mask", "restore", "unmask")
FENCES = ("lfence", "mfence", "sfence", "lock add", "xchg")
#: "close": a mask and a restore right after each other.
PLACES = ("inline", "outofline", "site", "close")
#: Of two sites close together: both have the fence; only the mask has it; only the restore has it.
BOTH, FIRST_ALONE, SECOND_ALONE = "mask+restore", "mask", "restore"

Timing = Literal["hardware", "emulated", "noisy"]

_MAX_BYTES = 16 << 20
_MAX_ROWS = 200_000
#: Greater than any figure, address and frequency.
_MOST_NUMBER = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Row:
    """What a fence adds to one execution of a sequence in a context.

    Attributes:
        kind: of KINDS; in the place "close" BOTH, or which of the two sites has the fence.
        fence: of FENCES.
        place: "inline" or "outofline" for the standard sequences, and "close" for two of them together;
            "site" for one replayed as compiled.
        context: of CONTEXTS.
        median_cycles, low_cycles, high_cycles: TSC cycles added, fenced minus unfenced: the median and
            its 95 % interval; None if it could not be measured.
        pair_count: pairs of loops that they are computed from.
        tight: the interval is as narrow as was asked for.
        address: of the site in its image; None for a standard sequence.
        build_id: of the image, in hex; None if it has none.
        note: why it is not tight, or why a site was not replayed and what replaces it.
        fenced_cycles, plain_cycles: cycles of one execution with and without the fence, including the
            context and the loop; only their difference is due to the fence.
        dropped_count: pairs left out because of an interrupt or a change of processor.
        lean_median_cycles, lean_low_cycles, lean_high_cycles: as above, but compared with the sequence
            without what only the fence's call requires: frame, saved registers, spills.  None if it
            requires nothing of the kind.
        median_ns, low_ns, high_ns: the figures above in ns.
        stands_in: the site was not replayed, and the figure is the standard sequence's; the note says why.
    """

    kind: str
    fence: str
    place: str
    context: str
    median_cycles: float | None
    low_cycles: float | None
    high_cycles: float | None
    pair_count: int
    tight: bool
    address: int | None = None
    build_id: str | None = None
    note: str = ""
    fenced_cycles: float | None = None
    plain_cycles: float | None = None
    dropped_count: int = 0
    lean_median_cycles: float | None = None
    lean_low_cycles: float | None = None
    lean_high_cycles: float | None = None
    median_ns: float | None = None
    low_ns: float | None = None
    high_ns: float | None = None
    stands_in: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that one calibration measured, and on what.

    Attributes:
        host: cpu_model, microcode, hypervisor, kernel as text, without the host's name.
        date: ISO 8601, UTC.
        tsc_hz: TSC cycles per second.
        tsc_quantum_cycles: the TSC's smallest step.
        core_per_tsc_ratio: core clock over TSC during the measurement.
        timing: "hardware", or why the figures must not be taken for the hardware's.
        settings: of the run.
        rows: the figures; empty if timing is not "hardware".
        notes: why timing is not "hardware"; what could not be replayed, one line each.
    """

    host: dict[str, str]
    date: str
    tsc_hz: float
    tsc_quantum_cycles: float
    core_per_tsc_ratio: float | None
    timing: Timing
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def text_of(calibration: Calibration) -> str:
    """Return ``calibration`` as JSON text."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(calibration)}, indent=1, allow_nan=False)


def read(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        TraceError: it is not a calibration, or of another schema version.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        text = file.read(_MAX_BYTES + 1)
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES} bytes")
        content = json.loads(text)
        if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
            raise ValueError(f"schema_version is not {SCHEMA_VERSION}")
        rows = content.pop("rows")
        if not isinstance(rows, list) or len(rows) > _MAX_ROWS:
            raise ValueError(f"rows is not a list of up to {_MAX_ROWS} rows")
        notes = tuple(str(note) for note in content.pop("notes", ()))
        found = Calibration(**_typed(Calibration, content), rows=tuple(map(_row, rows)), notes=notes)
        _check(found)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TraceError(f"{path}: not a calibration: {error}; make one with xtrace calibrate") from None
    return found


def _typed(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a data class from JSON, of the types of its fields.

    Raises:
        ValueError: one is of another type, or a number that no measurement has.
    """
    types = {each.name: str(each.type) for each in fields(kind)}
    return {name: _value(name, value, types.get(name, "")) for name, value in content.items()}


def _value(name: str, value: Any, kind: str) -> Any:
    if value is None and kind.endswith(" | None"):
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    what = kind.removesuffix(" | None")
    if what == "float" and is_number and abs(value) < _MOST_NUMBER:
        return float(value)
    if what == "int" and is_number and abs(value) < _MOST_NUMBER and value == int(value):
        return int(value)
    if (what == "str" and isinstance(value, str)) or (what == "bool" and isinstance(value, bool)):
        return value
    if what.startswith("dict[") and isinstance(value, dict):
        if what == "dict[str, str]" and not all(isinstance(each, str) for each in value.values()):
            raise ValueError(f"{name} has a value that is not text")
        return value
    if what in ("float", "int", "str", "bool") or what.startswith("dict["):
        raise ValueError(f"{name} is {value!s:.60}, not of the type {what}")
    return value


def _row(content: dict[str, Any]) -> Row:
    row = Row(**_typed(Row, content))
    for value, known in (
        (row.kind, (*KINDS, BOTH) if row.place == "close" else KINDS),
        (row.fence, FENCES),
        (row.place, PLACES),
        (row.context, CONTEXTS),
    ):
        if value not in known:
            raise ValueError(f"{value!r} is not one of {', '.join(known)}")
    figures = (
        row.median_cycles,
        row.low_cycles,
        row.high_cycles,
        row.lean_median_cycles,
        row.lean_low_cycles,
        row.lean_high_cycles,
        row.median_ns,
        row.low_ns,
        row.high_ns,
    )
    if any(figure is not None and not math.isfinite(figure) for figure in figures):
        raise ValueError("a figure is not a finite number")
    return row


def _check(found: Calibration) -> None:
    if found.timing not in ("hardware", "emulated", "noisy"):
        raise ValueError(f"timing is {found.timing!r}")
    if not 1e8 <= found.tsc_hz <= 2e10:
        raise ValueError(f"tsc_hz is {found.tsc_hz!r}, not a plausible TSC rate in Hz")
