"""What the metadata of each CTF 1.8 trace begins with, in TSDL, and the header of a packet.

Only the standard library is imported: captures are recorded with the Python of dom0.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

MAGIC = 0xC1FC1FC1
#: magic, padding; first and last time, bits of content and of packet, discarded events, CPU.
PACKET = struct.Struct("<I4x6Q")


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of all streams; readers refuse clocks of one name that differ in their identity.

    Attributes:
        offset_s, offset: from its start to 1970, the rest in cycles; 0 where that is not known.
    """

    name: str
    uuid: UUID
    description: str
    hz: int
    offset_s: int = 0
    offset: int = 0


def head(
    about: str,
    types: Sequence[str],
    env: Mapping[str, str | int],
    clock: Clock,
    header: Sequence[str],
    *,
    align: int,
    packet_time: str = "uint64_t",
) -> str:
    """Return the text before the events.

    Args:
        types: attributes and name of each integer type, with uint32_t and uint64_t.
        env: facts about the trace; texts have no quotes.
        header: fields of the header of an event, the first one aligned to ``align`` bits.
        packet_time: type of the times of a packet.
    """
    begin, end = (f"{packet_time} timestamp_{which};" for which in ("begin", "end"))
    aliases = [f"typealias integer {{ {what} }} := {name};\n" for what, _, name in map(_parted, types)]
    facts = [f"    {name} = {_value(value)};\n" for name, value in env.items()]
    fields = "".join(f"        {each};\n" for each in header)
    return (
        f"/* CTF 1.8 */\n/* {about} */\n{''.join(aliases)}\n"
        "trace {\n    major = 1;\n    minor = 8;\n    byte_order = le;\n"
        "    packet.header := struct {\n        uint32_t magic;\n    };\n};\n\n"
        f"env {{\n{''.join(facts)}}};\n\n"
        f'clock {{\n    name = "{clock.name}";\n    uuid = "{clock.uuid}";\n'
        f"    description = {_quoted(clock.description)};\n    freq = {clock.hz};\n"
        f"    offset_s = {clock.offset_s};\n    offset = {clock.offset};\n}};\n\n"
        f"stream {{\n    packet.context := struct {{\n        {begin}\n        {end}\n"
        "        uint64_t content_size;\n        uint64_t packet_size;\n"
        "        uint64_t events_discarded;\n        uint64_t cpu_id;\n    };\n"
        f"    event.header := struct {{\n{fields}    }} align({align});\n}};\n"
    )


def _parted(text: str) -> tuple[str, str, str]:
    return text.rpartition(" ")


def _value(value: str | int) -> str:
    return str(value) if isinstance(value, int) else _quoted(value)


def _quoted(text: str) -> str:
    return f'"{text}"'
