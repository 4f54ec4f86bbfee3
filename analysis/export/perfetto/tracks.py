"""Slices, instants and counters of Perfetto's tracks.

Each track is a packet sequence of its own, so its packets are in order of time although an interval is
known only at its end.  Slices that overlap others of a track are put on a second one of the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xtrace.analysis.export.perfetto import wire
from xtrace.probes.reader.batches import I64

#: Fields of TracePacket, TrackEvent, TrackDescriptor and others.
_PACKET = 1
_TIMESTAMP, _SEQUENCE, _INTERNED, _FLAGS, _EVENT, _DEFAULTS, _DESCRIPTOR = 8, 10, 12, 13, 11, 59, 60
_CATEGORY_IIDS, _TYPE, _NAME_IID, _TRACK_UUID, _COUNTER, _FLOWS, _ENDING_FLOWS = 3, 9, 10, 11, 30, 47, 48
_BEGIN, _END, _INSTANT, _COUNT = 1, 2, 3, 4
_CLEARED, _NEEDED = 1, 2
_CATEGORY = 1
_SEQUENCE_WIDTH, _NAME_WIDTH, _COUNTER_WIDTH = 4, 3, 4
#: Slices that overlap are put on so many tracks; what does not fit there is left out.
_LANES = 4
_NAMES_MOST = 1 << 20


@dataclass(slots=True)
class Track:
    """One packet sequence.

    Attributes:
        uuid: of the track.
        head: the content of its TrackDescriptor.
        category: how its slices are known.
        begun: its first packet has been written.
        last: time of its last packet.
    """

    uuid: int
    head: bytes
    category: str
    sequence: int
    begun: bool = False
    last: int = 0
    names: dict[str, int] = field(default_factory=dict)


def packet(*parts: bytes) -> bytes:
    """Return a TracePacket."""
    return wire.message(_PACKET, *parts)


def sequence(number: int) -> bytes:
    """Return the field of a packet that says of which sequence it is."""
    return wire.number(_SEQUENCE, number)


class Tracks:
    """All tracks, made when they are first used.

    Attributes:
        slice_count, instant_count, flow_count: written so far.
        left_out: slices that overlap too many others.
    """

    def __init__(self, first_sequence: int) -> None:
        self._tracks: dict[tuple[object, ...], Track] = {}
        self._next = first_sequence
        self.slice_count = self.instant_count = self.flow_count = self.left_out = 0

    def track(self, key: tuple[object, ...], category: str, *head: bytes) -> Track:
        """Return a track by its key; ``head`` has the fields of its descriptor besides the uuid."""
        if key not in self._tracks:
            uuid = self._next << 32 | 1
            self._tracks[key] = Track(uuid, wire.number(1, uuid) + b"".join(head), category, self._next)
            self._next += 1
        return self._tracks[key]

    def slices(
        self,
        key: tuple[object, ...],
        category: str,
        head: Sequence[bytes],
        begin: I64,
        end: I64,
        names: Sequence[str],
        name_of: npt.NDArray[np.integer],
        flows: npt.NDArray[np.uint64] | None = None,
        ending: npt.NDArray[np.uint64] | None = None,
    ) -> Iterator[bytes]:
        """Yield packets of slices, given in the order of their ends.

        Args:
            key, category, head: as for track().
            begin, end: in ns.
            names, name_of: the distinct names, and which one each slice has.
            flows, ending: of each slice, the flow that begins or ends there.
        """
        left = np.arange(len(begin))
        for lane in range(_LANES):
            if not len(left):
                return
            track = self.track((*key, lane), category, *head)
            before = np.maximum.accumulate(np.concatenate(([track.last], end[left][:-1])))
            fits = (begin[left] >= before) & (end[left] >= begin[left])
            chosen = left[fits]
            left = left[~fits]
            if len(chosen):
                yield self._lead(track, names)
                yield self._slices(track, begin, end, names, name_of, flows, ending, chosen)
        self.left_out += len(left)

    def instants(
        self,
        key: tuple[object, ...],
        category: str,
        head: Sequence[bytes],
        at: I64,
        names: Sequence[str],
        name_of: npt.NDArray[np.integer],
    ) -> Iterator[bytes]:
        """Yield packets of instants, as slices(); those out of order get the time of the one before."""
        track = self.track(key, category, *head)
        at = np.maximum.accumulate(np.maximum(at, track.last))
        yield self._lead(track, names)
        iids = np.array([track.names[name] for name in names])[name_of]
        event = wire.rows(
            len(at),
            wire.number(_TYPE, _INSTANT) + wire.number(_CATEGORY_IIDS, _CATEGORY) + wire.tag(_NAME_IID),
            wire.padded(iids, _NAME_WIDTH),
        )
        track.last = int(at[-1])
        self.instant_count += len(at)
        yield self._packets(track, at, event).tobytes()

    def counter(
        self, key: tuple[object, ...], head: Sequence[bytes], at: I64, values: I64
    ) -> Iterator[bytes]:
        """Yield packets of a counter's values, which are not negative."""
        track = self.track(key, "inferred", *head)
        at = np.maximum.accumulate(np.maximum(at, track.last))
        yield self._lead(track, ())
        event = wire.rows(
            len(at), wire.number(_TYPE, _COUNT) + wire.tag(_COUNTER), wire.padded(values, _COUNTER_WIDTH)
        )
        track.last = int(at[-1])
        yield self._packets(track, at, event).tobytes()

    def _slices(
        self,
        track: Track,
        begin: I64,
        end: I64,
        names: Sequence[str],
        name_of: npt.NDArray[np.integer],
        flows: npt.NDArray[np.uint64] | None,
        ending: npt.NDArray[np.uint64] | None,
        chosen: npt.NDArray[np.integer],
    ) -> bytes:
        iids = np.array([track.names[name] for name in names])[name_of[chosen]]
        parts: list[bytes | wire.Bytes2D] = [
            wire.number(_TYPE, _BEGIN) + wire.number(_CATEGORY_IIDS, _CATEGORY) + wire.tag(_NAME_IID),
            wire.padded(iids, _NAME_WIDTH),
        ]
        for number, values in ((_FLOWS, flows), (_ENDING_FLOWS, ending)):
            if values is not None:
                parts += [wire.fixed_tag(number), wire.fixed64(values[chosen])]
                self.flow_count += len(chosen) if number == _FLOWS else 0
        begins = self._packets(track, begin[chosen], wire.rows(len(chosen), *parts))
        ends = self._packets(track, end[chosen], wire.rows(len(chosen), wire.number(_TYPE, _END)))
        track.last = int(end[chosen[-1]])
        self.slice_count += len(chosen)
        return np.concatenate((begins, ends), axis=1).tobytes()

    def _packets(self, track: Track, at: I64, event: wire.Bytes2D) -> wire.Bytes2D:
        return wire.framed(
            _PACKET,
            wire.rows(
                len(at),
                wire.tag(_TIMESTAMP),
                wire.padded(at, wire.TIME_WIDTH),
                sequence(track.sequence) + wire.number(_FLAGS, _NEEDED),
                wire.framed(_EVENT, event),
            ),
        )

    def _lead(self, track: Track, names: Sequence[str]) -> bytes:
        """Return the packets that come before: the track's descriptor, and names that are new."""
        lead = b""
        interned = [wire.message(_CATEGORY, wire.number(1, 1), wire.text(2, track.category))]
        if not track.begun:
            lead = packet(wire.message(_DESCRIPTOR, track.head), sequence(track.sequence))
        new = [name for name in names if name not in track.names]
        if len(track.names) + len(new) > _NAMES_MOST:
            raise ValueError("too many names on one track")
        for name in new:
            track.names[name] = len(track.names) + 1
        if track.begun and not new:
            return lead
        content = [wire.message(2, wire.number(1, track.names[name]), wire.text(2, name)) for name in new]
        if track.begun:
            parts = [wire.message(_INTERNED, *content), wire.number(_FLAGS, _NEEDED)]
        else:
            defaults = wire.message(11, wire.number(_TRACK_UUID, track.uuid))
            parts = [
                wire.message(_INTERNED, *interned, *content),
                wire.number(_FLAGS, _CLEARED | _NEEDED),
                wire.message(_DEFAULTS, defaults),
            ]
            track.begun = True
        return lead + packet(*parts, sequence(track.sequence))
