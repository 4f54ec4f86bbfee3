"""Where was the guest's kernel when a record told it: functions, lines, and the share that runs masked?

Input are the RIP tallies of a trace and an image for a domain.  Each table is empty where no image is
given.  Known bias: a RIP is recorded where the guest enters Xen, so a place that never does is never
seen, and a share is one of entries and not of time.  Of time are the samples by dom0's software clock alone
(source perf_clock): they come with an upcall, so code that masks these is seen where it unmasks.  What a
masked range calls lies outside the range and is not counted as masked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.machine.machine import kind_of
from xtrace.analysis.machine.metrics import UNRECORDED_RIPS, VCPU_PV, Kind, Metric, RipSource
from xtrace.analysis.measures.table import Column, Measures, Quality, Table, share
from xtrace.analysis.partial.partial import Partial
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT

U64 = npt.NDArray[np.uint64]

#: So many addresses of a domain, the hottest, are looked up in the line programs.
MOST_LINES = 1000
OUTSIDE = "(not in the image)"

_VCPU_MASK = 0xFFFF_FFFF
_UNKNOWN_DOMAIN = 32768
_EXACT, _INFERRED = Quality.EXACT, Quality.INFERRED

_BIASED_TO = {
    RipSource.TRAP: "where the guest traps",
    RipSource.PAGE_FAULT: "where the guest faults",
    RipSource.PRIVOP: "privileged instructions",
    RipSource.INVALID_OP: "forced emulation, as cpuid",
    RipSource.HYPERCALL: "where hypercalls are made",
    RipSource.EXIT: "instructions that exit",
    RipSource.PTWR: "writes to page tables",
    RipSource.XENCTX: "where it blocks, by pauses",
    RipSource.PERF_CLOCK: "time, masked code late",
}
_CARRIERS = {Kind.TRAP, Kind.PAGE_FAULT, Kind.PRIVOP, Kind.INVALID_OP, Kind.PTWR, Kind.VMEXIT}
_ADDRESS_COLUMNS = {
    "domain": "int64", "source": "object", "biased_to": "object", "rip": "object", "function": "object",
    "offset": "int64", "file": "object", "line": "float64", "inside": "bool", "masked": "bool",
    "count": "int64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What an image says of addresses, one entry an address.

    Attributes:
        inside: the address lies in code of the image.
        functions: symbol names; "" where none covers the address.
        offsets: from the symbol.
        masked: the address lies in a range that a site runs with upcalls masked.
        files, lines: source places; "" and 0 where there is none.
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

    def place(self, rips: U64, *, is_pv: bool) -> tuple[int | None, str]:
        """Return what addresses of the guest are more than those of the image, and how it is known.

        Args:
            rips: distinct, the most frequent first.
            is_pv: the domain is a PV guest.

        Returns:
            The load offset, None where the samples do not tell it, and how it is known or why not.
        """

    def find(self, addresses: U64, most_lines: int) -> Found:
        """Say of addresses of the image, the most frequent first, where they lie."""


@dataclass(frozen=True, slots=True)
class KernelSamples:
    """The samples of the domains that have an image.

    Attributes:
        images: as the table kernel_images.
        addresses: domain, source, biased_to, rip, function, offset, file, line, inside, masked | count.
    """

    images: pd.DataFrame
    addresses: pd.DataFrame


def resolve(partial: Partial, kernels: Iterable[Kernel]) -> KernelSamples:
    """Say of each RIP of a domain with an image where it lies."""
    tallies = partial.tallies
    rows = tallies[tallies["metric"] == int(Metric.RIP)]
    vcpu = rows["a"].to_numpy(np.int64)
    rips = pd.DataFrame(
        {
            "domain": (vcpu & _VCPU_MASK) >> 16,
            "source": vcpu >> 32,
            "rip": rows["b"].to_numpy(np.int64).view(np.uint64),
            "count": rows["count"].to_numpy(np.int64),
        }
    )
    domains = (partial.vcpus["vcpu"].to_numpy(np.int64) >> 16).tolist()
    known = set(domains)
    pv = {
        domain
        for domain, kind in zip(domains, partial.vcpus["type"].tolist(), strict=True)
        if kind == VCPU_PV
    }
    carried = _carried(partial.records)
    recorded = ~rips["source"].isin([int(source) for source in UNRECORDED_RIPS])
    left_out = carried - int(rips.loc[recorded, "count"].sum())
    unknown = int(rips.loc[rips["domain"] == _UNKNOWN_DOMAIN, "count"].sum())
    images, addresses = [], []
    for kernel in kernels:
        own = rips[rips["domain"] == kernel.domain]
        own = own.groupby(["source", "rip"], as_index=False)[["count"]].sum()
        own = own.sort_values(["count", "source", "rip"], ascending=[False, True, True])
        offset, source, frame = _placed(kernel, own, is_pv=kernel.domain in pv)
        inside = int(frame.loc[frame["inside"], "count"].sum())
        images.append(
            {
                "domain": kernel.domain,
                "image": kernel.path,
                "build_id": kernel.build_id,
                "load_offset": "" if offset is None else f"{'-' if offset < 0 else ''}{abs(offset):#x}",
                "load_offset_source": source,
                "count": int(frame["count"].sum()),
                "address_count": int(frame["rip"].nunique()),
                "inside_count": inside,
                "masked_count": int(frame.loc[frame["masked"], "count"].sum()),
                "carried_count": carried,
                "left_out_count": left_out,
                "unknown_domain_count": unknown,
                "note": _note(kernel.domain, known, len(frame), offset, source, inside),
            }
        )
        addresses.append(frame)
    empty = pd.DataFrame(columns=list(_ADDRESS_COLUMNS)).astype(_ADDRESS_COLUMNS)
    table = pd.DataFrame(images, columns=[column.name for column in IMAGE_COLUMNS if column.name != _RATIO])
    return KernelSamples(
        table.assign(masked_ratio=share(table["masked_count"], table["inside_count"])),
        pd.concat([empty, *addresses], ignore_index=True) if addresses else empty,
    )


def kernel_images(measures: Measures) -> pd.DataFrame:
    """Return each image with how its samples were found in it."""
    return _samples(measures).images


def kernel_sources(measures: Measures) -> pd.DataFrame:
    """Return the samples of each domain by what made Xen record them, most first."""
    return _summed(_samples(measures).addresses, ["domain", "source", "biased_to"])


def kernel_functions(measures: Measures) -> pd.DataFrame:
    """Return the samples of each domain and source by function, most first."""
    return _summed(_samples(measures).addresses, ["domain", "source", "function"])


def kernel_lines(measures: Measures) -> pd.DataFrame:
    """Return the samples whose source line is known, by address, most first."""
    addresses = _samples(measures).addresses
    offsets = [f"+{offset:#x}" if offset else "" for offset in addresses["offset"]]
    table = addresses.assign(
        place=addresses["function"].to_numpy(object) + np.array(offsets, object),
        rip=[f"{int(rip):#x}" for rip in addresses["rip"]],
        masked=np.where(addresses["masked"], "yes", "no"),
        share_ratio=_share_of_domain(addresses, addresses),
    )
    found = table[table["file"] != ""]
    return found.sort_values(["domain", "count"], ascending=[True, False], kind="stable")


def _note(
    domain: int, known: set[int], address_count: int, offset: int | None, source: str, inside: int
) -> str:
    """Return why nothing could be looked up; "" where something was."""
    if domain not in known:
        return f"the trace has no domain {domain}"
    if not address_count:
        return f"the trace has no RIP sample of domain {domain}"
    if offset is None:
        return f"the load offset is not known: {source}"
    return "" if inside else "none of the samples lies in it: did the domain run this kernel?"


def _placed(kernel: Kernel, own: pd.DataFrame, *, is_pv: bool) -> tuple[int | None, str, pd.DataFrame]:
    rips = own["rip"].to_numpy(np.uint64)
    counts = own["count"].to_numpy(np.int64)
    offset, source = None, ""
    if len(rips):
        # What the records of two sources tell twice is one address.
        offset, source = kernel.place(np.array(list(dict.fromkeys(rips.tolist())), np.uint64), is_pv=is_pv)
    found = (
        _nowhere(len(rips)) if offset is None else kernel.find(rips - np.uint64(offset % 2**64), MOST_LINES)
    )
    functions = [
        (name or "(no symbol)") if inside else OUTSIDE
        for name, inside in zip(found.functions, found.inside.tolist(), strict=True)
    ]
    sources = [RipSource(source) for source in own["source"].tolist()]
    frame = pd.DataFrame(
        {
            "domain": np.full(len(own), kernel.domain, np.int64),
            "source": pd.Series([source.name.lower() for source in sources], dtype=object),
            "biased_to": pd.Series([_BIASED_TO[source] for source in sources], dtype=object),
            "rip": pd.Series(rips.tolist(), dtype=object),
            "function": pd.Series(functions, dtype=object),
            "offset": np.where(found.inside, found.offsets, 0),
            "file": pd.Series(list(found.files), dtype=object),
            "line": np.where(found.lines > 0, found.lines, np.nan),
            "inside": found.inside,
            "masked": found.masked & found.inside,
            "count": counts,
        }
    )
    return offset, source, frame


def _nowhere(count: int) -> Found:
    no = np.zeros(count, bool)
    zero = np.zeros(count, np.int64)
    return Found(no, [""] * count, zero, no, [""] * count, zero)


def _carried(records: pd.DataFrame) -> int:
    """Return how many records of a trace carry the RIP of a guest."""
    headers = records["header"].to_numpy(np.int64)
    carries = [
        _carries(header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK) for header in headers.tolist()
    ]
    return int(records["count"].to_numpy(np.int64)[np.array(carries, bool)].sum())


def _carries(event: int, words: int) -> bool:
    kind, param = kind_of(event, words)
    # A hypercall's record has a RIP in the old layout, and then no arguments.
    return kind in _CARRIERS or (kind is Kind.HYPERCALL and not param & 1)


def _samples(measures: Measures) -> KernelSamples:
    return measures.kernels or resolve(measures.partial, ())


def _summed(addresses: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return the counts of all samples, of those in the image and of those masked."""
    parts = addresses[[*by, "count"]].assign(
        inside_count=addresses["count"].where(addresses["inside"], 0),
        masked_count=addresses["count"].where(addresses["masked"], 0),
    )
    table = parts.groupby(by, as_index=False)[["count", "inside_count", "masked_count"]].sum()
    table = table.assign(
        share_ratio=_share_of_domain(table, addresses),
        masked_ratio=share(table["masked_count"], table["inside_count"]),
    )
    return table.sort_values(["domain", "count"], ascending=[True, False], kind="stable")


def _share_of_domain(table: pd.DataFrame, addresses: pd.DataFrame) -> npt.NDArray[np.float64]:
    whole = addresses.groupby("domain")["count"].sum()
    return share(table["count"], table["domain"].map(whole).to_numpy(float))


_RATIO = "masked_ratio"
_DOMAIN = Column("domain", Quality.KEY, "domain id", "dom")
_SOURCE = Column("source", Quality.KEY, "what made Xen record it; xenctx, perf_clock: no record", "source")
_COUNT = Column("count", _EXACT, "samples", "samples")
_SHARE = Column("share_ratio", _EXACT, "share of the domain's samples, of all sources", "share")
_INSIDE = Column("inside_count", _EXACT, "samples in the image's code", "in image")
_MASKED = Column(
    "masked_count", _INFERRED, "samples in a range that a mask site begins, up to its restore", "masked"
)
_MASKED_RATIO = Column(_RATIO, _INFERRED, "masked samples as a share of those in the image", "part")

IMAGE_COLUMNS = (
    Column("domain", Quality.KEY, "domain id"),
    Column("image", Quality.KEY, "the image's file"),
    Column("build_id", Quality.KEY, "its build-id"),
    Column(
        "load_offset",
        _INFERRED,
        "address in the guest less that in the image; exact where it is given, empty where nothing tells it",
    ),
    Column("load_offset_source", Quality.KEY, "how it is known"),
    Column("count", _EXACT, "RIP samples of the domain, user code included"),
    Column("address_count", _EXACT, "distinct addresses of them; none is dropped"),
    Column("inside_count", _EXACT, "samples in the image's code"),
    Column("masked_count", _INFERRED, "samples in a range that a mask site begins, up to its restore"),
    Column(_RATIO, _INFERRED, "masked samples as a share of those in the image"),
    Column("carried_count", _EXACT, "records of the whole trace that carry a RIP, of all domains"),
    Column(
        "left_out_count",
        _EXACT,
        "those not kept: outside --from and --to, of a vCPU that cannot have such a record, or beyond the "
        "number of distinct addresses that is kept",
    ),
    Column("unknown_domain_count", _EXACT, "those kept, but of a domain that the records did not tell yet"),
    Column("note", Quality.KEY, "why no sample was found in the image; empty where some were"),
)

TABLES = (
    Table(
        "kernel_images",
        "kernel",
        "Images that samples were looked up in",
        kernel_images,
        IMAGE_COLUMNS,
    ),
    Table(
        "kernel_sources",
        "kernel",
        "Samples of the kernels by source",
        kernel_sources,
        (
            _DOMAIN,
            _SOURCE,
            Column("biased_to", Quality.KEY, "what such samples show; time by perf_clock alone", "shows"),
            _COUNT,
            _SHARE,
            _INSIDE,
            _MASKED,
            _MASKED_RATIO,
        ),
        bias="entries into Xen (perf_clock: time); what masked code calls is not counted",
    ),
    Table(
        "kernel_functions",
        "kernel",
        "Functions of the kernels that enter Xen",
        kernel_functions,
        (
            _DOMAIN,
            _SOURCE,
            Column("function", Quality.KEY, "symbol", "function"),
            _COUNT,
            _SHARE,
            _MASKED,
        ),
        bias="entries into Xen, not time; by perf_clock: time",
    ),
    Table(
        "kernel_lines",
        "kernel",
        "Lines of the kernels that enter Xen",
        kernel_lines,
        (
            _DOMAIN,
            _SOURCE,
            Column("rip", Quality.KEY, "guest instruction pointer"),
            Column("place", Quality.KEY, "symbol and offset", "place"),
            Column("file", Quality.KEY, "source file", "file"),
            Column("line", Quality.KEY, "source line", "line"),
            Column("masked", _INFERRED, "whether the address lies in a masked range", "masked"),
            _COUNT,
            Column("share_ratio", _EXACT, "share of the domain's samples, of all sources"),
        ),
        bias=f"of the {MOST_LINES} addresses of a domain with most samples, by DWARF",
    ),
)
