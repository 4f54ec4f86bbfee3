"""The JSON file that `xtrace trial` writes: what each group of fences costs, measured in place.

The file is one JSON object: ``schema_version`` and the fields of Result, tuples as lists.  This module needs
only the standard library, so a result can be read and printed where scipy and statsmodels are not installed.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.words import printable
from xtrace.symbols.patching.exchange import Dose, Exchange, Refusal

SCHEMA_VERSION = 1
#: The quality of every figure here, beside those of a report.
MARK = "measured in place"
ALL, AGAIN = "all", "A/A"
#: Kind of the groups with more fences.
DOSE = "dose"
_MOST_BYTES = 16 << 20
_MOST_ROWS = 10_000
#: Greater than any figure, address and frequency.
_MOST_NUMBER = float(1 << 64)
#: Fields that files of earlier versions lack.
_LATER = frozenset(("pause_count", "pause_median_s"))


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its interval of 95 %, whatever made the trial stop."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Return the half-width."""
        return (self.high - self.low) / 2

    def excludes(self, value: float) -> bool:
        """Return whether a value is outside."""
        return not self.low <= value <= self.high

    def times(self, factor: float) -> Interval:
        """Return it multiplied by a positive number."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Group:
    """What one arm changes.

    Attributes:
        name: "all", "A/A", a callee's, a function's or a site's name, "+1" for one more fence.
        kind: all, again, callee, function, site, dose.
        exchange_count: instructions exchanged.  fence_count: sites whose fences these are; for doses,
            functions with more fences.
        saved: share of the running time per unit that is saved; negative if it takes more.
        saved_ns, saved_cycles: per unit; TSC cycles.
        unit_ns: running time per unit in this arm.
        p: of the randomisation test.
        clipped_count: block differences that were clipped.
    """

    name: str
    kind: str
    exchange_count: int
    fence_count: int
    saved: Interval
    saved_ns: Interval
    saved_cycles: Interval
    unit_ns: Interval
    p: float
    clipped_count: int

    @property
    def is_measurable(self) -> bool:
        """Return whether the interval excludes no change."""
        return self.saved.excludes(0.0)


@dataclass(frozen=True, slots=True)
class Result:
    """What a trial found.

    Attributes:
        mark: how the figures are known: MARK.
        timing: hardware or emulated.
        host: cpu_model, microcode, hypervisor, kernel.
        date: UTC, ISO 8601.
        xtrace: the version.
        image, image_sha256, build_id: of the file given.
        target: "process" or "domain", its id, and its name.
        counter, covariates: names of counters, the first that of the unit of work.
        verdicts: of the fences that were removed.
        fence_count: fences with such a verdict, exchanged or refused.
        kept_count: fences of other verdicts.
        unit_ns: running time per unit as it is.  unit_cycles: the same in TSC cycles.
        unit_count: counted in all slices.
        carried: by how much "all" saves more in the second half of its slices than in the first: what the
            slice before left in the caches, if it is not chance.
        block_count, slice_s, seconds, idle_count, ended_by, seed, precision: how it was run.
        lengthened_count: how often it was begun again with longer slices, because of that.
        running_ratio: running time of all threads divided by the time that passed: the load.
        groups: A/A first, then the groups asked for, then all.
        doses: functions with room for more fences, if these were asked for.
        added_ns: running time per unit that each more fence in all of them takes.
        pause_count, pause_median_s: of a domain, which is paused to exchange and to read; 0 for a process.
    """

    mark: str
    timing: str
    host: dict[str, str]
    date: str
    xtrace: str
    image: str
    image_sha256: str
    build_id: str
    target: str
    counter: str
    covariates: tuple[str, ...]
    tsc_hz: float
    verdicts: tuple[str, ...]
    fence_count: int
    kept_count: int
    unit_ns: Interval
    unit_cycles: Interval
    unit_count: int
    carried: Interval
    block_count: int
    slice_s: float
    seconds: float
    lengthened_count: int
    idle_count: int
    ended_by: str
    seed: int
    precision: float
    running_ratio: float
    groups: tuple[Group, ...]
    exchanged: tuple[Exchange, ...]
    refused: tuple[Refusal, ...]
    doses: tuple[Dose, ...]
    added_ns: Interval | None
    notes: tuple[str, ...]
    pause_count: int = 0
    pause_median_s: float = 0.0

    def group(self, name: str) -> Group:
        """Return a group by its name."""
        return next(group for group in self.groups if group.name == name)


def json_object(result: Result) -> dict[str, Any]:
    """Return the JSON object."""
    exchanged = [item.json_object() for item in result.exchanged]
    doses = [item.json_object() for item in result.doses]
    return {"schema_version": SCHEMA_VERSION, **asdict(result), "exchanged": exchanged, "doses": doses}


def text_of(result: Result) -> str:
    """Return the file's text."""
    return json.dumps(json_object(result), indent=1, allow_nan=False)


def read(path: Path) -> Result:
    """Read a file that `xtrace trial` wrote; control characters in its texts are escaped.

    Raises:
        OSError: it cannot be opened.
        TraceError: it is not such a file.
    """
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError("too large")
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("mark") != MARK:
            raise ValueError(f'there is no "mark": "{MARK}"')
        if found.pop("schema_version") != SCHEMA_VERSION:
            raise ValueError("another version of the format")
        return _result(found)
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise TraceError(f"{path}: not a result of xtrace trial: {error}") from None


def _result(found: dict[str, Any]) -> Result:
    wanted = {field.name: field.type for field in fields(Result)}
    values: dict[str, Any] = {}
    for name, kind in wanted.items():
        if name in found or name not in _LATER:
            values[name] = _value(found[name], str(kind), name)
    if not values["groups"] or len(values["groups"]) > _MOST_ROWS:
        raise ValueError("groups")
    if not {ALL, AGAIN} <= {group.name for group in values["groups"]}:
        raise ValueError('groups without "all" or "A/A"')
    return Result(**values)


def _value(found: Any, kind: str, name: str) -> Any:
    """Return a JSON value as the type that a field is annotated with."""
    if kind.startswith("tuple["):
        return _items(found, kind.removeprefix("tuple[").partition(",")[0], name)
    if kind == "Interval | None":
        return None if found is None else _value(found, "Interval", name)
    if kind == "Interval":
        ends = [_finite(found[key], name) for key in ("value", "low", "high")]
        if not ends[1] <= ends[0] <= ends[2]:
            raise ValueError(f"{name}: the interval does not contain the value")
        return Interval(*ends)
    if kind == "dict[str, str]":
        if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
            raise ValueError(name)
        return {printable(key): printable(item) for key, item in found.items()}
    if kind == "float" or (kind == "int" and isinstance(found, int)):
        number = _finite(found, name)
        if number < 0:
            raise ValueError(f"{name} is below 0")
        return number if kind == "float" else found
    if kind == "str" and isinstance(found, str):
        return printable(found)
    if kind == "bytes" and isinstance(found, str):
        return bytes.fromhex(found)
    raise ValueError(f"{name} is not {kind}")


def _finite(found: Any, name: str) -> float:
    if not isinstance(found, int | float) or isinstance(found, bool) or not abs(found) < _MOST_NUMBER:
        raise ValueError(f"{name} is not a number, or too great")
    return float(found)


def _items(found: Any, kind: str, name: str) -> tuple[Any, ...]:
    """Return a JSON list as a tuple of rows or of plain values."""
    if not isinstance(found, list) or len(found) > _MOST_ROWS:
        raise ValueError(f"{name} is not a list of at most {_MOST_ROWS} items")
    row = {"Group": Group, "Dose": Dose, "Exchange": Exchange, "Refusal": Refusal}.get(kind)
    if row is None:
        return tuple(_value(item, kind, name) for item in found)
    types = {field.name: str(field.type) for field in fields(row)}
    return tuple(
        row(**{key: _value(item[key], types[key], f"{name}.{key}") for key in types}) for item in found
    )


def sentence(result: Result) -> str:
    """Return the answer in one sentence."""
    found = result.group(ALL)
    saved = found.saved
    what = _what(result)
    whose = f"of this {result.target.partition(' ')[0]}'s running time at this load"
    if not found.is_measurable:
        most = max(abs(saved.low), abs(saved.high))
        return (
            f"Turning {what} into no-ops changes no measurable part {whose}: less than {percent(most)} "
            f"({_ends(saved)})"
        )
    if saved.value > 0:
        return f"Turning {what} into no-ops saves {_value_of(saved)} ({_ends(saved)}) {whose}"
    lost = Interval(-saved.value, -saved.high, -saved.low)
    return f"Turning {what} into no-ops takes {_value_of(lost)} ({_ends(lost)}) more {whose}"


def dose_sentence(result: Result) -> str:
    """Return what each more fence takes, in a sentence; "" without doses."""
    if result.added_ns is None:
        return ""
    names = ", ".join(dict.fromkeys(dose.callee for dose in result.doses))
    found = result.added_ns
    size = found.half
    return (
        f"Each more fence in {names} adds {_digits(found.value, size)} ns "
        f"({_digits(found.low, size)} to {_digits(found.high, size)}) to a unit"
    )


def warnings(result: Result) -> list[str]:
    """Return what speaks against the figures: equal slices differ, or one arm disturbs another."""
    found = []
    if result.group(AGAIN).is_measurable:
        found.append(
            "A/A: slices with the same bytes differ by more than chance explains: something disturbs the "
            "trial in step with its slices; run it again with another --seed"
        )
    if result.carried.half >= 1.0:
        found.append(
            "carry-over: too few slices could be read in their middle to see whether one disturbs the next; "
            "run it again with a longer --duration"
        )
    elif result.carried.excludes(0.0):
        change = "more" if result.carried.value > 0 else "less"
        found.append(
            f"carry-over: the second half of the slices saves {percent(abs(result.carried.value))} {change} "
            "than the first, so the caches still hold what another arm left; run it again with a longer "
            "--slice and --duration"
        )
    return found


def _what(result: Result) -> str:
    verdicts = " or ".join(result.verdicts)
    done = result.group(ALL).fence_count
    total = result.fence_count
    if total == 1:
        return f"the {verdicts} fence"
    return f"the {total} {verdicts} fences" if done == total else f"{done} of the {total} {verdicts} fences"


def percent(ratio: float) -> str:
    """Return a share in percent, with as many digits as its size needs."""
    return f"{_digits(100 * ratio, 100 * abs(ratio))} %"


def _value_of(found: Interval) -> str:
    return f"{_digits(100 * found.value, 100 * found.half)} %"


def _ends(found: Interval) -> str:
    size = 100 * found.half
    return f"{_digits(100 * found.low, size)} to {_digits(100 * found.high, size)}"


def _digits(value: float, size: float) -> str:
    if size <= 0 or not math.isfinite(size):
        return f"{value:.2f}"
    places = min(max(math.ceil(-math.log10(size / 2)), 0), 4)
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text
