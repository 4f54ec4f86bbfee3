"""Find how far from its linked addresses a kernel was loaded, from sampled addresses alone.

Linux with KASLR is loaded at a multiple of 2 MiB above the addresses it is linked at, up to 1 GiB.
A wrong offset puts samples in code as well, but at arbitrary places in it.  The right one puts them
where samples are often taken: after a call or a hypercall, at an instruction that exits to Xen, at a
function's start, inside a stub of the hypercall page.  So each offset is judged by how many distinct
samples are at such a place.

Source: Linux arch/x86/boot/compressed/kaslr.c, xen/arch/x86/hypercall.c (the stubs), SDM volume 3
section 26.1 (instructions that cause VM exits).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.symbols.image.image import Image

U64 = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

_STEP_BYTES = 2 << 20
_REACH_BYTES = 1 << 30
#: How many distinct samples are examined: the most frequent ones.
_MOST_SAMPLES = 4096
_DEVIATIONS = 4
#: Offsets that put less than this share of the best one's samples in code are not examined further.
_LEAST_OF_BEST_SHARE = 0.5
_BEFORE, _AFTER = 6, 3
_STUB_BYTES, _PAGE_BYTES = 32, 4096
#: After syscall in a 64-bit PV stub, int $0x82 in a 32-bit one, vmcall in an HVM one, and at the vmcall.
_STUB_RETURNS = (10, 7, 8, 5)
#: Instructions that samples come right after: syscall, int $0x82, vmcall, vmmcall; sti then hlt.
_EXITS_BEHIND = (b"\x0f\x05", b"\xcd\x82", b"\x0f\x01\xc1", b"\x0f\x01\xd9", b"\xfb\xf4")
#: Instructions that samples are at: cpuid, rdmsr, wrmsr, vmcall, vmmcall, mov from and to a control register.
_EXITS_AT = (
    b"\x0f\xa2",
    b"\x0f\x32",
    b"\x0f\x30",
    b"\x0f\x01\xc1",
    b"\x0f\x01\xd9",
    b"\x0f\x20",
    b"\x0f\x22",
)


@dataclass(frozen=True, slots=True)
class LoadOffset:
    """What was added to an image's addresses when it was loaded.

    Attributes:
        value: bytes, a multiple of 2 MiB; None where the samples do not decide it.
        share: of the samples that this offset puts in the image's code; without a value, the best share.
        how: the evidence for the value, or why there is none, in words.
    """

    value: int | None
    share: float
    how: str


def fit_load_offset(rips: U64, image: Image) -> LoadOffset:
    """Return the load offset that fits the sampled addresses best."""
    if image.relocatable:
        return LoadOffset(None, 0.0, "an object file has no load address; give the linked image")
    samples, counts = np.unique(rips, return_counts=True)
    if not len(samples) or not image.code:
        return LoadOffset(None, 0.0, "no samples, or no code in the image")
    frequent = np.argsort(counts, kind="stable")[::-1][:_MOST_SAMPLES]
    samples, counts = samples[frequent], counts[frequent]
    code = _Code(image)
    steps = range(-_REACH_BYTES, _REACH_BYTES + 1, _STEP_BYTES)
    shares = {step: int(counts[code.holds(_shifted(samples, step))].sum()) / len(rips) for step in steps}
    best_share = max(shares.values())
    if not best_share:
        return LoadOffset(None, 0.0, "no load offset within 1 GiB puts a sample in the image's code")
    likely = [step for step in steps if shares[step] >= _LEAST_OF_BEST_SHARE * best_share]
    evidence = {step: int(code.telling(_shifted(samples, step)).sum()) for step in likely}
    ranked = sorted(likely, key=lambda step: (-evidence[step], abs(step)))
    first, most = ranked[0], evidence[ranked[0]]
    rival = evidence[ranked[1]] if len(ranked) > 1 else 0
    # With any wrong offset about the same number of samples is at such places, by chance.
    if most - rival >= _DEVIATIONS * math.sqrt(rival + 1):
        how = f"{most} of {len(samples)} distinct samples are at call returns, exits or function starts"
        return LoadOffset(first, shares[first], f"{how}, {rival} with the next best offset")
    if len(likely) == 1:
        return LoadOffset(first, shares[first], "no other offset puts half as many samples in code")
    return LoadOffset(
        None,
        best_share,
        f"{len(likely)} offsets put a similar number of samples in code, and at most {most} of "
        f"{len(samples)} distinct samples are at call returns, exits or function starts; give the offset",
    )


def _shifted(samples: U64, step: int) -> U64:
    return samples - np.uint64(step % (1 << 64))


class _Code:
    """An image's code as one array, to examine many addresses at a time."""

    def __init__(self, image: Image) -> None:
        sections = sorted(image.code, key=lambda section: section.address)
        self._starts = np.array([s.address for s in sections], np.uint64)
        self._ends = np.array([s.address + len(s.data) for s in sections], np.uint64)
        # Between and around the sections: zeros, which are not part of any instruction looked for.
        gap = bytes(max(_BEFORE, _AFTER))
        pieces, places, place = [gap], [], len(gap)
        for section in sections:
            places.append(place)
            pieces += [bytes(section.data), gap]
            place += len(section.data) + len(gap)
        self._bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self._places = np.array(places, np.int64)
        self._function_starts = image.symbols.function_starts()
        self._hypercall_page = image.symbols.find("hypercall_page")

    def holds(self, addresses: U64) -> Flags:
        """Return which addresses are in the code, as flags."""
        section, _ = self._section(addresses)
        inside: Flags = (addresses >= self._starts[section]) & (addresses < self._ends[section])
        return inside

    def telling(self, addresses: U64) -> Flags:
        """Return which of the addresses in the code are where samples are often taken, as flags."""
        addresses = addresses[self.holds(addresses)]
        section, distance = self._section(addresses)
        place = self._places[section] + distance.astype(np.int64)
        found = self._starts_function(addresses) | self._in_hypercall_page(addresses)
        found |= self._behind_call(addresses, place)
        for code in _EXITS_BEHIND:
            found |= self._matches(place - len(code), code)
        for code in _EXITS_AT:
            found |= self._matches(place, code)
        return found

    def _section(self, addresses: U64) -> tuple[npt.NDArray[np.int64], U64]:
        section = np.maximum(np.searchsorted(self._starts, addresses, "right") - 1, 0)
        return section, addresses - self._starts[section]

    def _matches(self, place: npt.NDArray[np.int64], code: bytes) -> Flags:
        found = np.ones(len(place), np.bool_)
        for index, byte in enumerate(code):
            found &= self._bytes[place + index] == byte
        return found

    def _behind_call(self, addresses: U64, place: npt.NDArray[np.int64]) -> Flags:
        """Return which addresses follow a direct call to a function, or to any code if none are known."""
        octets = self._bytes[place[:, None] + np.arange(-4, 0)]
        distances = np.ascontiguousarray(octets).view("<i4")[:, 0].astype(np.int64)
        targets = addresses + distances.view(np.uint64)
        known = self._starts_function(targets) if len(self._function_starts) else self.holds(targets)
        found: Flags = (self._bytes[place - 5] == 0xE8) & known
        return found

    def _starts_function(self, addresses: U64) -> Flags:
        return np.isin(addresses, self._function_starts)

    def _in_hypercall_page(self, addresses: U64) -> Flags:
        if self._hypercall_page is None:
            return np.zeros(len(addresses), np.bool_)
        distance = addresses - np.uint64(self._hypercall_page)
        stub_place = distance % np.uint64(_STUB_BYTES)
        inside: Flags = (distance < np.uint64(_PAGE_BYTES)) & np.isin(
            stub_place, np.array(_STUB_RETURNS, np.uint64)
        )
        return inside
