"""Where was the guest's kernel when a record told it: functions, lines, and the share that runs masked?

Input are the RIP tallies of a trace and an image for a domain.  Each table is empty where no image is
given.  Known bias: a RIP is recorded where the guest enters Xen, so a place that never does is never
seen, and a share is one of entries and not of time.  Of time are the samples by dom0's software clock alone
(source perf_clock): they come with an upcall, so code that masks these is seen where it unmasks.  What a
masked range calls lies outside the range and is not counted as masked.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.measures.kernel_samples import MOST_LINES, KernelSamples
from xtrace.analysis.measures.lookup import share
from xtrace.analysis.measures.table import Column, Quality, Table

_EXACT, _INFERRED = Quality.EXACT, Quality.INFERRED


def kernel_images(samples: KernelSamples) -> pd.DataFrame:
    """Return each image with how its samples were found in it."""
    return samples.images


def kernel_sources(samples: KernelSamples) -> pd.DataFrame:
    """Return the samples of each domain by what made Xen record them, most first."""
    return _summed(samples.addresses, ["domain", "source", "biased_to"])


def kernel_functions(samples: KernelSamples) -> pd.DataFrame:
    """Return the samples of each domain and source by function, most first."""
    return _summed(samples.addresses, ["domain", "source", "function"])


def kernel_lines(samples: KernelSamples) -> pd.DataFrame:
    """Return the samples whose source line is known, by address, most first."""
    addresses = samples.addresses
    offsets = [f"+{offset:#x}" if offset else "" for offset in addresses["offset"]]
    table = addresses.assign(
        place=addresses["function"].to_numpy(object) + np.array(offsets, object),
        rip=[f"{int(rip):#x}" for rip in addresses["rip"]],
        masked=np.where(addresses["masked"], "yes", "no"),
        share_ratio=_share_of_domain(addresses, addresses),
    )
    found = table[table["file"] != ""]
    return found.sort_values(["domain", "count"], ascending=[True, False], kind="stable")


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

_IMAGE_COLUMNS = (
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


def _table(
    name: str,
    title: str,
    make: Callable[[KernelSamples], pd.DataFrame],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[KernelSamples]:
    return Table(name, "kernel", title, make, columns, bias, takes=KernelSamples)


TABLES = (
    _table(
        "kernel_images",
        "Images that samples were looked up in",
        kernel_images,
        _IMAGE_COLUMNS,
    ),
    _table(
        "kernel_sources",
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
    _table(
        "kernel_functions",
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
    _table(
        "kernel_lines",
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
