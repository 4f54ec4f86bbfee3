"""What xenalyze prints as data for plots, from `xtrace export`: the same events on the real traces."""

from __future__ import annotations

import lzma
import math
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from peer import xenalyze_run
from peer.samples import SAMPLES
from peer.xenalyze_run import needs_xenalyze
from xtrace.analysis import events

pytestmark = needs_xenalyze
#: At 1 GHz xenalyze prints cycles as nanoseconds, without its rounding.
HZ = ("--cpu-hz", "1G")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("samples")
    found = {}
    for name in ("xen417-pv-all", "xen417-pvh-all"):
        found[name] = folder / f"{name}.bin"
        found[name].write_bytes(lzma.decompress((SAMPLES / f"{name}.bin.xz").read_bytes()))
    return found


def printed(path: Path, *options: str) -> list[list[str]]:
    lines = xenalyze_run.run(path, [*HZ, *options]).stdout.decode().splitlines()
    return [line.split() for line in lines if line and line[0] in "0123456789i"]


def frame(path: Path, kind: str) -> pd.DataFrame:
    return pd.concat(events(path, kind))


@pytest.mark.parametrize(
    ("name", "options"), [("xen417-pv-all", ()), ("xen417-pvh-all", ("--svm-mode",))], ids=["pv", "pvh"]
)
def test_irqs_are_those_of_its_scatter_plot(
    traces: dict[str, Path], name: str, options: tuple[str, ...]
) -> None:
    """It prints their numbers in hexadecimal."""
    theirs = printed(traces[name], "--scatterplot-irq", *options)
    ours = frame(traces[name], "irqs")
    assert Counter((int(irq[1:], 16), int(pcpu)) for irq, _, pcpu in theirs) == Counter(
        zip(ours["irq"].tolist(), ours["pcpu"].tolist(), strict=True)
    )
    assert theirs


def test_addresses_of_exits_are_those_of_its_scatter_plot(traces: dict[str, Path]) -> None:
    """It prints the low 32 bits of each, as a signed number."""
    path = traces["xen417-pvh-all"]
    theirs = printed(path, "--svm-mode", "--scatterplot-vmexit-eip")
    ours = frame(path, "rips")
    exits = ours[ours["source"] == "exit"]
    low = Counter(int(each) & 0xFFFF_FFFF for each in exits["rip"])
    assert sum(low.values()) >= len(theirs) > 500
    assert not Counter(int(eip) & 0xFFFF_FFFF for _, eip in theirs) - low


def test_runs_begin_where_its_scatter_plot_of_pcpus_says(traces: dict[str, Path]) -> None:
    """Where a run begins, but a vCPU's first, it prints the pCPU of the run before, and that of this one."""
    path = traces["xen417-pv-all"]
    theirs = Counter(
        (vcpu, round(float(time) * 1e9), int(pcpu))
        for vcpu, time, pcpu in printed(path, "--scatterplot-pcpu")
        if not vcpu.startswith("3276")
    )
    first = frame(path, "runstates")["begin_tsc"].min()
    runs = frame(path, "runs")
    runs = runs[runs["domain"] < 32767].sort_values("begin_tsc")
    ours: Counter[tuple[str, int, int]] = Counter()
    for (domain, vcpu), own in runs.groupby(["domain", "vcpu"]):
        for begin, pcpu, before in zip(own["begin_tsc"], own["pcpu"], own["pcpu"].shift(), strict=True):
            if not math.isnan(before):
                ours.update([(f"{domain}v{vcpu}", begin - first, at) for at in (int(before), pcpu)])
    assert not theirs - ours
    # It leaves out one more, of a vCPU that ran when the recording began.
    assert (ours - theirs).total() == 2
    assert theirs.total() > 7000
