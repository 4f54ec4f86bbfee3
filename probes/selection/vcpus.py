"""Domains, vCPUs and pCPUs, as a user names them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from xtrace.probes.errors import TraceError
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.xen_abi import IDLE_DOMAIN

#: The name of Xen's own domain, whose vCPUs run when nothing else does.
IDLE = "idle"
_MAX_ID = 0xFFFF
_SHOWN = 8

_ID = re.compile(r"d?(\d{1,10})", re.ASCII)
_VCPU = re.compile(r"(?:d(\d{1,5})v)?(\d{1,5})", re.ASCII)
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MASK = re.compile(r"0x[0-9a-f]{1,1024}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Vcpu:
    """vCPUs with a number.

    Attributes:
        number: of the vCPU.
        domain: its domain's id; None for this number in every domain.
    """

    number: int
    domain: int | None = None

    @classmethod
    def parse(cls, text: str) -> Vcpu:
        """Parse ``d3v0``, or ``0`` for vCPU 0 of every domain.

        Raises:
            ValueError: it is neither.
        """
        found = _VCPU.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is not a vCPU such as d3v0, or 0 for vCPU 0 of every domain")
        return cls(int(found[2]), None if found[1] is None else int(found[1]))


@dataclass(frozen=True, slots=True)
class Pcpus:
    """Some pCPUs.

    Attributes:
        numbers: of them.
        text: as the user wrote it, which xentrace's -c takes.
    """

    numbers: frozenset[int]
    text: str

    @classmethod
    def parse(cls, text: str) -> Pcpus:
        """Parse ``0,4-7``, a mask such as ``0xf1``, or ``all``; numbers that no host has are left out.

        Raises:
            ValueError: it is neither, or names no pCPU.
        """
        word = text.strip()
        numbers: set[int] = set()
        if word == "all":
            numbers.update(range(MAX_PCPUS))
        elif _MASK.fullmatch(word):
            mask = int(word, 16)
            numbers = {bit for bit in range(min(mask.bit_length(), MAX_PCPUS)) if mask >> bit & 1}
        else:
            for part in word.split(","):
                found = _RANGE.fullmatch(part)
                if found is None:
                    raise ValueError(f"{text!r} is not a list of pCPUs such as 0,4-7, or a mask such as 0xf1")
                numbers.update(range(int(found[1]), min(int(found[2] or found[1]), MAX_PCPUS - 1) + 1))
        if not numbers:
            raise ValueError(f"{text!r} names no pCPU")
        return cls(frozenset(numbers), word)


def id_of(domain: int | str) -> int | None:
    """Return the id in ``3``, ``"3"``, ``"d3"`` or ``"idle"``; None where the text can only be a name.

    Raises:
        TraceError: no domain has such an id.
    """
    if domain == IDLE:
        return IDLE_DOMAIN
    found = _ID.fullmatch(str(domain))
    if found is None:
        return None
    if int(found[1]) > _MAX_ID:
        raise TraceError(f"{domain}: a domain's id is at most {_MAX_ID}")
    return int(found[1])


def domain_ids(wanted: Iterable[int | str], names: Callable[[], Mapping[int, str]], source: str) -> list[int]:
    """Return the ids of domains that a user names by id or by name.

    A name may belong to several ids, since a domain gets a new one with each reboot.

    Args:
        wanted: as for id_of(), or a name.
        names: returns the domains' names by id, as far as they are known; only called for a name.
        source: where the names are from, for the message.

    Raises:
        TraceError: no domain has that name or can have that id.
    """
    found: list[int] = []
    for each in wanted:
        number = id_of(each)
        if number is not None:
            found.append(number)
            continue
        known = names()
        ids = [key for key, name in known.items() if name == each]
        if not ids:
            raise TraceError(f"{source}: no domain is called {each!r}; {_known(known)}")
        found += ids
    return list(dict.fromkeys(found))


def _known(names: Mapping[int, str]) -> str:
    if not names:
        return "it has no names of domains: give an id, such as 3 or d3"
    shown = [f"{name} (d{key})" for key, name in sorted(names.items())[:_SHOWN]]
    return f"it has {', '.join(shown)}{' and more' if len(names) > _SHOWN else ''}"
