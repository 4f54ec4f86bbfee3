"""A slow, simple reference implementation of the renderer: one record in, its line of text or JSON out.

It takes the records of ``oracle.reader`` and shares nothing with xtrace.probes.dump.lines but the
catalogue.  The json module formats JSON, Python formats numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from oracle.reader import LOST_RECORDS, Record, Restart
from xtrace.probes.catalog import Event, Field, Layout, VersionRange, find
from xtrace.probes.catalog.exits import SVM_CODES, VMX_REASONS
from xtrace.probes.catalog.pv import hypercall_arguments

TAKEN = ("tsc", "pcpu", "current", "event", "name", "words", "timed")
RUNS_FROM_HERE = (0x21002, 0x21101, 0x21201, 0x21301)
RAN_UP_TO_HERE = (0x21011, 0x21021, 0x21031)


@dataclass(slots=True)
class Twin:
    """Render records one after the other, in merged order.

    Attributes:
        running: the vCPU on each pCPU, as (domain, number).
        hz: TSC frequency; 0 to show cycles.  ``raw``: show the TSC itself.
        restarts: of the TSC; the time goes on there, and what runs is not known.
    """

    versions: VersionRange
    vendor: str | None = None
    hz: int = 0
    raw: bool = False
    origin: int | None = None
    running: dict[int, tuple[int, int]] = field(default_factory=dict)
    restarts: Sequence[Restart] = ()
    segment: int = 0

    def text(self, records: Iterable[Record]) -> Iterator[str]:
        """Yield the lines of text, without line ends."""
        for record in records:
            self._begin_segment(record)
            self._find_origin(record)
            running = self._running(record)
            current = "d?v?" if running is None else f"d{running[0]}v{running[1]}"
            if running is not None and running[0] == 0x7FFF:
                current = "idle"
            sign = " " if record.timed else "+"
            event, layout = self._reading(record)
            parts = [f"{self._time(record)}{sign}p{record.pcpu:<2} {current:<5}"]
            parts.append("unknown" if event is None else event.name)
            if event is None or record.event & 0x0800_0000:
                parts.append(f"event=0x{record.event:x}")
            if event is not None:
                parts += [f"{name}={value}" for name, value in event.constants]
            parts += [f"{name}={text}" for name, text in self._texts(record, event, layout)]
            yield " ".join(parts)

    def json(self, records: Iterable[Record]) -> Iterator[str]:
        """Yield the lines of JSON, without line ends."""
        for record in records:
            self._begin_segment(record)
            running = self._running(record)
            event, layout = self._reading(record)
            line: dict[str, object] = {
                "tsc": record.tsc,
                "pcpu": record.pcpu,
                "current": None if running is None else f"d{running[0]}v{running[1]}",
                "event": record.event,
                "name": "unknown" if event is None else event.name,
            }
            if not record.timed:
                line["timed"] = False
            line["words"] = list(record.words)
            if event is not None:
                for name, text in event.constants:
                    line[_key(name)] = int(text) if text.isdigit() else text
                for name, value, label in self._values(record, event, layout):
                    line[_key(name)] = value
                    if label is not None:
                        line[f"{name}_name"] = label
            yield json.dumps(line, separators=(",", ":"))

    def _begin_segment(self, record: Record) -> None:
        if record.segment > self.segment:
            self.running.clear()
            self.segment = record.segment

    def _find_origin(self, record: Record) -> None:
        if self.origin is None and record.timed:
            self.origin = record.tsc
            if record.event == LOST_RECORDS and len(record.words) == 4:
                self.origin = min(record.tsc, record.words[2] | record.words[3] << 32)

    def _time(self, record: Record) -> str:
        if not record.timed and record.tsc == 0:
            return f"{'-':>{15 if self.raw else 12}}"
        if self.raw:
            return f"{record.tsc:>15}"
        since = record.tsc - (self.origin or 0)
        since += sum(restart.before - restart.after for restart in self.restarts[: record.segment])
        if not self.hz:
            return f"{since:>12}"
        ns = abs(since) * 10**9 // self.hz
        return f"{'-' * (since < 0)}{ns // 10**9}.{ns % 10**9:09}".rjust(12)

    def _running(self, record: Record) -> tuple[int, int] | None:
        pcpu, words = record.pcpu, record.words
        if record.event == LOST_RECORDS and record.timed and len(words) == 4:
            self.running[pcpu] = (words[1] & 0xFFFF, words[1] >> 16)
        elif record.timed and words and record.event in (*RUNS_FROM_HERE, *RAN_UP_TO_HERE):
            self.running[pcpu] = (words[0] >> 16, words[0] & 0xFFFF)
            if record.event in RAN_UP_TO_HERE:
                return self.running.pop(pcpu)
        return self.running.get(pcpu)

    def _reading(self, record: Record) -> tuple[Event | None, Layout | None]:
        for versions in (self.versions, VersionRange()):
            match = find(record.event, len(record.words), record.timed, versions)
            if match is not None and match.layout is not None:
                return match.event, match.layout
        match = find(record.event, len(record.words), record.timed, VersionRange())
        return (None if match is None else match.event), None

    def _fields(self, record: Record, event: Event, layout: Layout) -> Iterator[tuple[Field, str | None]]:
        for place in layout.present(len(record.words)):
            names = place.names
            if event.name == "vmexit" and place.name == "reason":
                names = {"vmx": VMX_REASONS, "svm": SVM_CODES, None: None}[self.vendor]
            yield place, names.get(place.value(record.words)) if names else None

    def _values(
        self, record: Record, event: Event, layout: Layout | None
    ) -> Iterator[tuple[str, int, str | None]]:
        if layout is None:
            for number, word in enumerate(record.words):
                yield f"w{number}", word, None
            return
        fields = list(self._fields(record, event, layout))
        is_call = any(place.name == "argmask" for place, _ in fields)
        for place, label in fields:
            if not is_call or not place.name.startswith("arg_"):
                yield place.name, place.value(record.words), label
        if is_call:
            for argument in hypercall_arguments(record.words):
                label = argument.names.get(argument.value) if argument.names else None
                yield argument.name, argument.value, label

    def _texts(self, record: Record, event: Event | None, layout: Layout | None) -> Iterator[tuple[str, str]]:
        if event is None or layout is None:
            for number, word in enumerate(record.words):
                yield f"w{number}", f"0x{word:x}"
            return
        in_hex = {place.name for place in layout.fields if place.base == "hex"}
        in_hex |= {"frame", *(f"arg{number}" for number in range(6))}
        for name, value, label in self._values(record, event, layout):
            if name != "argmask":
                yield name, label or (f"0x{value:x}" if name in in_hex else str(value))


def _key(name: str) -> str:
    return f"{name}_" if name in TAKEN else name
