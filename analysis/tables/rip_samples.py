"""Tables of where guest kernels were sampled: functions, source lines, and the share with upcalls masked.

The input is the RIP tallies of a trace and a kernel image per domain; without an image the tables are empty.
Known bias: a RIP is recorded where the guest enters Xen, so code that never enters Xen is never seen, and
a share is one of entries, not of time.  Only the samples of dom0's software clock (source perf_clock) are
samples in time; that clock arrives with an upcall, so masked code is seen where it unmasks.  Functions
called from a masked range are outside the range and are not counted as masked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns, text
from xtrace.analysis.measures.kernel_samples import MOST_LINES, KernelSamples
from xtrace.analysis.measures.lookup import counted, share
from xtrace.analysis.measures.table import Column, Quality, Table

_EXACT, _INFERRED = Quality.EXACT, Quality.INFERRED


def kernel_images(samples: KernelSamples) -> Columns:
    """Return each image with its samples: how many there were, and how many are in the image."""
    return samples.images


def kernel_sources(samples: KernelSamples) -> Columns:
    """Return the samples of each domain by source, most frequent first."""
    return _summed(samples.addresses, ["domain", "source", "biased_to"])


def kernel_functions(samples: KernelSamples) -> Columns:
    """Return the samples of each domain by source and function, most frequent first."""
    return _summed(samples.addresses, ["domain", "source", "function"])


def kernel_lines(samples: KernelSamples) -> Columns:
    """Return the samples whose source line is known, by address, most frequent first."""
    addresses = samples.addresses
    offsets = text(f"+{offset:#x}" if offset else "" for offset in addresses["offset"].tolist())
    table = addresses.having(
        place=addresses["function"] + offsets,
        rip=text(f"{rip:#x}" for rip in addresses["rip"].tolist()),
        masked=np.where(addresses["masked"], "yes", "no"),
        share_ratio=_share_of_domain(addresses, addresses),
    )
    return _most_first(table.where(table["file"] != ""))


def _summed(addresses: Columns, by: list[str]) -> Columns:
    """Return the counts of all samples, of those in the image and of those in masked ranges."""
    parts = addresses.having(
        inside_count=np.where(addresses["inside"], addresses["count"], 0),
        masked_count=np.where(addresses["masked"], addresses["count"], 0),
    )
    table = parts.sums(by, ["count", "inside_count", "masked_count"])
    table = table.having(
        share_ratio=_share_of_domain(table, addresses),
        masked_ratio=share(table["masked_count"], table["inside_count"]),
    )
    return _most_first(table)


def _share_of_domain(table: Columns, addresses: Columns) -> npt.NDArray[np.float64]:
    whole = addresses.sums(["domain"], ["count"])
    return share(table["count"], counted(table["domain"], whole, key="domain"))


def _most_first(table: Columns) -> Columns:
    return table.sorted_by("count", descending=True).sorted_by("domain")


_RATIO = "masked_ratio"
_DOMAIN = Column("domain", Quality.KEY, "domain id", "dom")
_SOURCE = Column("source", Quality.KEY, "what recorded it; xenctx and perf_clock: not Xen", "source")
_COUNT = Column("count", _EXACT, "number of samples", "samples")
_SHARE = Column("share_ratio", _EXACT, "share of the domain's samples from all sources", "share")
_INSIDE = Column("inside_count", _EXACT, "samples in the image's code", "in image")
_MASKED = Column(
    "masked_count", _INFERRED, "samples in a masked range, from a mask site to its restore", "masked"
)
_MASKED_RATIO = Column(_RATIO, _INFERRED, "share of the samples in the image that are masked", "ratio")

_IMAGE_COLUMNS = (
    Column("domain", Quality.KEY, "domain id"),
    Column("image", Quality.KEY, "file of the image"),
    Column("build_id", Quality.KEY, "build-id of the image"),
    Column(
        "load_offset",
        _INFERRED,
        "guest address minus image address; exact where it is given, empty where it is not known",
    ),
    Column("load_offset_source", Quality.KEY, "how the load offset is known, or why it is not"),
    Column("count", _EXACT, "RIP samples of the domain, user code included"),
    Column("address_count", _EXACT, "distinct addresses among these samples"),
    Column("inside_count", _EXACT, "samples in the image's code"),
    Column("masked_count", _INFERRED, "samples in a masked range, from a mask site to its restore"),
    Column(_RATIO, _INFERRED, "share of the samples in the image that are masked"),
    Column("carried_count", _EXACT, "records with a RIP in the whole trace, of all domains"),
    Column(
        "left_out_count",
        _EXACT,
        "of carried_count, not kept: outside --from and --to, from a vCPU of a type without such records, or "
        "over the limit of distinct addresses",
    ),
    Column("unknown_domain_count", _EXACT, "samples kept whose domain was not yet known from the records"),
    Column("note", Quality.KEY, "why no sample was found in the image; empty where one was"),
)


def _table(
    name: str,
    title: str,
    make: Callable[[KernelSamples], Columns],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[KernelSamples]:
    return Table(name, "kernel", title, make, columns, bias, takes=KernelSamples)


TABLES = (
    _table(
        "kernel_images",
        "Kernel images and their samples",
        kernel_images,
        _IMAGE_COLUMNS,
    ),
    _table(
        "kernel_sources",
        "Kernel samples by source",
        kernel_sources,
        (
            _DOMAIN,
            _SOURCE,
            Column("biased_to", Quality.KEY, "what the source shows; only perf_clock samples time", "shows"),
            _COUNT,
            _SHARE,
            _INSIDE,
            _MASKED,
            _MASKED_RATIO,
        ),
        bias="entries into Xen (perf_clock: time); masked excludes what masked code calls",
    ),
    _table(
        "kernel_functions",
        "Kernel samples by function",
        kernel_functions,
        (
            _DOMAIN,
            _SOURCE,
            Column("function", Quality.KEY, "symbol", "function"),
            _COUNT,
            _SHARE,
            _MASKED,
        ),
        bias="entries into Xen, not time; only perf_clock samples time",
    ),
    _table(
        "kernel_lines",
        "Kernel samples by source line",
        kernel_lines,
        (
            _DOMAIN,
            _SOURCE,
            Column("rip", Quality.KEY, "guest instruction pointer"),
            Column("place", Quality.KEY, "symbol and offset", "place"),
            Column("file", Quality.KEY, "source file", "file"),
            Column("line", Quality.KEY, "source line", "line"),
            Column("masked", _INFERRED, "yes or no: the address is in a masked range", "masked"),
            _COUNT,
            Column("share_ratio", _EXACT, "share of the domain's samples from all sources"),
        ),
        bias=f"from DWARF, for the {MOST_LINES} most sampled addresses of each domain",
    ),
)
