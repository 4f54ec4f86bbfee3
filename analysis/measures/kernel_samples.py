"""Resolve samples of guest instruction pointers in the kernel images that the domains run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns, distinct, joined, of_rows, text
from xtrace.analysis.measures.lookup import share
from xtrace.analysis.state_machine.keys import domain_of, high_of
from xtrace.analysis.state_machine.machine import kind_of
from xtrace.analysis.state_machine.metrics import UNRECORDED_RIPS, VCPU_PV, Kind, Metric, RipSource
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT
from xtrace.probes.xen_abi import DEFAULT_DOMAIN

U64 = npt.NDArray[np.uint64]

#: Source lines are looked up for this many addresses of a domain, the most sampled ones.
MOST_LINES = 1000
OUTSIDE = "(not in the image)"

_BIASED_TO = {
    RipSource.TRAP: "where the guest traps",
    RipSource.PAGE_FAULT: "where the guest faults",
    RipSource.PRIVOP: "privileged instructions",
    RipSource.INVALID_OP: "forced emulation, e.g. cpuid",
    RipSource.HYPERCALL: "where hypercalls are made",
    RipSource.EXIT: "instructions that exit",
    RipSource.PTWR: "writes to page tables",
    RipSource.XENCTX: "where vCPUs block",
    RipSource.PERF_CLOCK: "time; masked code late",
}
_CARRIERS = {Kind.TRAP, Kind.PAGE_FAULT, Kind.PRIVOP, Kind.INVALID_OP, Kind.PTWR, Kind.VMEXIT}
_INT, _TEXT = np.int64, object
_ADDRESS_COLUMNS = {
    "domain": _INT, "source": _TEXT, "biased_to": _TEXT, "rip": np.uint64, "function": _TEXT,
    "offset": _INT, "file": _TEXT, "line": _TEXT, "inside": np.bool_, "masked": np.bool_, "count": _INT,
}  # fmt: skip
_IMAGE_COLUMNS = {
    "domain": _INT, "image": _TEXT, "build_id": _TEXT, "load_offset": _TEXT, "load_offset_source": _TEXT,
    "count": _INT, "address_count": _INT, "inside_count": _INT, "masked_count": _INT,
    "carried_count": _INT, "left_out_count": _INT, "unknown_domain_count": _INT, "note": _TEXT,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What an image says about addresses, one entry per address.

    Attributes:
        inside: the address is in code of the image.
        functions: symbol names; "" where no symbol covers the address.
        offsets: from the symbol, in bytes.
        masked: the address is in a range that runs with upcalls masked.
        files, lines: source locations; "" and 0 where none is known.
    """

    inside: npt.NDArray[np.bool_]
    functions: Sequence[str]
    offsets: npt.NDArray[np.int64]
    masked: npt.NDArray[np.bool_]
    files: Sequence[str]
    lines: npt.NDArray[np.int64]


class Kernel(Protocol):
    """An image that a domain runs."""

    @property
    def domain(self) -> int:
        """The domain's number."""

    @property
    def path(self) -> str:
        """The image's file."""

    @property
    def build_id(self) -> str:
        """The image's build-id in hex, "" if it has none."""

    def load_offset_of(self, rips: U64, *, is_pv: bool) -> tuple[int | None, str]:
        """Return guest address minus image address, and how it is known.

        Args:
            rips: distinct, the most frequent first.
            is_pv: the domain is a PV guest.

        Returns:
            The load offset, None where it cannot be found, and how it is known or why it is not.
        """

    def find(self, addresses: U64, most_lines: int) -> Found:
        """Return where addresses of the image are: function, source line, masked or not.

        Args:
            addresses: of the image, the most frequent first.
            most_lines: look up source lines for this many of them that are inside the image.
        """


@dataclass(frozen=True, slots=True)
class KernelSamples:
    """The samples of the domains that have an image.

    Attributes:
        images: the rows of the table kernel_images.
        addresses: domain, source, biased_to, rip, function, offset, file, line, inside, masked | count.
    """

    images: Columns
    addresses: Columns


def resolve(partial: Partial, kernels: Collection[Kernel]) -> KernelSamples:
    """Return where each RIP of a domain with an image is; nothing without an image."""
    if not kernels:
        return _samples([], [])
    tallies = partial.tallies
    rows = tallies.where(tallies["metric"] == Metric.RIP)
    rips = Columns(
        {
            "domain": domain_of(rows["a"]),
            "source": high_of(rows["a"]),
            "rip": rows["b"].view(np.uint64),
            "count": rows["count"],
        }
    )
    domains = domain_of(partial.vcpus["vcpu"]).tolist()
    known = {*domains, *rips["domain"].tolist()}
    pv = {
        domain
        for domain, kind in zip(domains, partial.vcpus["type"].tolist(), strict=True)
        if kind == VCPU_PV
    }
    carried = _carried(partial.records)
    unrecorded = np.isin(rips["source"], [int(source) for source in UNRECORDED_RIPS])
    left_out = carried - int(rips["count"][~unrecorded].sum())
    unknown = int(rips["count"][rips["domain"] == DEFAULT_DOMAIN].sum())
    images, addresses = [], []
    for kernel in kernels:
        own = rips.where(rips["domain"] == kernel.domain).sums(["source", "rip"], ["count"])
        own = own.sorted_by("count", descending=True)
        offset, source, placed = _placed(kernel, own, is_pv=kernel.domain in pv)
        inside = int(placed["count"][placed["inside"]].sum())
        images.append(
            {
                "domain": kernel.domain,
                "image": kernel.path,
                "build_id": kernel.build_id,
                "load_offset": "" if offset is None else f"{'-' if offset < 0 else ''}{abs(offset):#x}",
                "load_offset_source": source,
                "count": int(placed["count"].sum()),
                "address_count": len(distinct(placed["rip"])),
                "inside_count": inside,
                "masked_count": int(placed["count"][placed["masked"]].sum()),
                "carried_count": carried,
                "left_out_count": left_out,
                "unknown_domain_count": unknown,
                "note": _note(kernel.domain, known, len(placed), offset, source, inside),
            }
        )
        addresses.append(placed)
    return _samples(images, addresses)


def records_by_function(samples: KernelSamples, domain: int) -> dict[str, int]:
    """Return the samples of a domain's kernel by function."""
    addresses = samples.addresses
    own = addresses.where((addresses["domain"] == domain) & addresses["inside"])
    counts = own.sums(["function"], ["count"])
    return dict(zip(counts["function"].tolist(), counts["count"].tolist(), strict=True))


def _samples(images: Sequence[Mapping[str, object]], addresses: Sequence[Columns]) -> KernelSamples:
    table = of_rows([[image[name] for name in _IMAGE_COLUMNS] for image in images], _IMAGE_COLUMNS)
    return KernelSamples(
        table.having(masked_ratio=share(table["masked_count"], table["inside_count"])),
        joined([of_rows([], _ADDRESS_COLUMNS), *addresses]),
    )


def _note(
    domain: int, known: set[int], address_count: int, offset: int | None, source: str, inside: int
) -> str:
    """Return why no sample was found in the image; "" where one was."""
    if domain not in known:
        return f"the trace has no domain {domain}"
    if not address_count:
        return f"the trace has no RIP sample of domain {domain}"
    if offset is None:
        return f"unknown load offset: {source}"
    return "" if inside else "no sample is in this image: did the domain run this kernel?"


def _placed(kernel: Kernel, own: Columns, *, is_pv: bool) -> tuple[int | None, str, Columns]:
    rips = own["rip"]
    offset, source = None, ""
    if len(rips):
        # Two sources may have sampled the same address.
        distinct = np.array(list(dict.fromkeys(rips.tolist())), np.uint64)
        offset, source = kernel.load_offset_of(distinct, is_pv=is_pv)
    found = (
        _nowhere(len(rips)) if offset is None else kernel.find(rips - np.uint64(offset % 2**64), MOST_LINES)
    )
    functions = [
        (name or "(no symbol)") if inside else OUTSIDE
        for name, inside in zip(found.functions, found.inside.tolist(), strict=True)
    ]
    sources = [RipSource(source) for source in own["source"].tolist()]
    return (
        offset,
        source,
        Columns(
            {
                "domain": kernel.domain,
                "source": text(source.name.lower() for source in sources),
                "biased_to": text(_BIASED_TO[source] for source in sources),
                "rip": rips,
                "function": text(functions),
                "offset": np.where(found.inside, found.offsets, 0),
                "file": text(found.files),
                "line": np.where(found.lines > 0, found.lines.astype(object), np.nan),
                "inside": found.inside,
                "masked": found.masked & found.inside,
                "count": own["count"],
            }
        ),
    )


def _nowhere(count: int) -> Found:
    no = np.zeros(count, bool)
    zero = np.zeros(count, np.int64)
    return Found(no, [""] * count, zero, no, [""] * count, zero)


def _carried(records: Columns) -> int:
    """Return how many records of a trace contain a guest RIP."""
    carries = [
        _carries(header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK)
        for header in records["header"].tolist()
    ]
    return int(records["count"][np.array(carries, bool)].sum())


def _carries(event: int, words: int) -> bool:
    kind, param = kind_of(event, words)
    # A hypercall record has a RIP only in the old layout, which has no arguments.
    return kind in _CARRIERS or (kind is Kind.HYPERCALL and not param & 1)
