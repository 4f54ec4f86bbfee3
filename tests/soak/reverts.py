"""Take out one fix at a time, and find its fault again: what shows that the fuzzers could find it at all.

    python -m soak.reverts [--first 0] [--most 400] [NAME ...]

It finds the first case that is a fault without the fix.

The case is kept in KEPT, and the slice of each kind in CI has all of these (tests/reliability/test_soak.py).
tests/reliability/test_reverts.py runs each of them without the fix, which must be a fault, in a copy of the
tree, so that nobody's checkout changes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from soak.shapes import KNOWN_FACTOR

ROOT = Path(__file__).resolve().parents[2]
#: What a case needs.
_FOLDERS = ("analysis", "cli", "probes", "samples", "symbols", "tests", "tools", "xtrace")
_FILES = ("pyproject.toml", "README.md")
_LIMIT_S = 3600


@dataclass(frozen=True, slots=True)
class Revert:
    """A fix, taken out.

    Attributes:
        kind: of cases that find its fault.
        what: the fault.
        edits: file, text and what takes its place: each text occurs once.
        fault: words that the campaign says of the fault.
        like: words of the cases that are tried to find it: what they are, and the command.
    """

    kind: str
    what: str
    edits: tuple[tuple[str, str, str], ...]
    fault: str
    like: tuple[str, ...] = ()


_MACHINE, _TABLES = "analysis/state_machine/machine.py", "MAX_TALLIES, MAX_HISTOGRAMS, MAX_CHUNKS"
_PARTIAL = "analysis/summary/partial.py"
REVERTS = {
    "restarts": Revert(
        "traces",
        "times before a restart of the TSC that add up to over 63 bits",
        (
            (
                _PARTIAL,
                "np.array([min(total, MOST_SUM) for total in accumulate(cycles)], np.int64)",
                "np.array(list(accumulate(cycles)), np.int64)",
            ),
        ),
        "OverflowError",
        ("restarts",),
    ),
    "witnesses": Revert(
        "traces",
        "each of thousands of pCPUs asks all windows that follow whether its TSC has restarted",
        (("probes/intact/whole_windows.py", "elif self._looks >= most:", "elif False:"),),
        "s of CPU",
        ("falls 3000000",),
    ),
    "messages": Revert(
        "json",
        "a message with a value of the file, as long as that is",
        (("cli/main.py", "_MOST_MESSAGE = 1000", "_MOST_MESSAGE = 1 << 40"),),
        "a line of more than 2000 characters",
    ),
    "calibration": Revert(
        "json",
        "numbers and objects of a calibration that are not looked at",
        (
            (
                "probes/timing/calibration.py",
                "Calibration(**_typed(Calibration, content), rows",
                "Calibration(**content, rows",
            ),
            ("probes/timing/calibration.py", "Row(**_typed(Row, content))", "Row(**content)"),
        ),
        "traceback",
        ("calibration",),
    ),
    "meta": Revert(
        "captures",
        "a meta.json of any size",
        (("probes/capture/inside.py", "MAX_META_BYTES = 8 << 20", "MAX_META_BYTES = 1 << 50"),),
        "",
        ("meta.json sparse",),
    ),
    "steps": Revert(
        "images",
        "code that is walked without an end",
        (("symbols/flow/code.py", "_MOST_STEPS = 1_000_000", "_MOST_STEPS = 1_000_000_000"),),
        "s of CPU",
        ("branches",),
    ),
    "masked": Revert(
        "images",
        "walking what runs with the mask set is not counted as work",
        (("symbols/sites/finder.py", "// _MASKED_BYTES_PER_STEP)", "// (1 << 40))"),),
        "s of CPU",
        ("masks",),
    ),
    "far targets": Revert(
        "images",
        "offsets of addresses that are over 63 bits away",
        (
            ("symbols/sites/byte_scan.py", "if first >= len(code) or last <= 0:", "if False:"),
            (
                "symbols/sites/byte_scan.py",
                "code[max(first, 0) : last]",
                "code[max(first, 0) : max(last, 0)]",
            ),
        ),
        "traceback: OverflowError",
        ("change_words",),
    ),
    "holes": Revert(
        "captures",
        "a file that is a terabyte of holes is hashed",
        (("analysis/summary/summary_head.py", "        refuse_holes(file.fileno(), str(path))\n", ""),),
        "s of CPU",
        ("--keep", "sparse"),
    ),
    "losses in stat": Revert(
        "traces",
        "each loss looks at all vCPUs, in top and stat",
        (
            (
                "probes/live/counters.py",
                "for vcpu in tuple(self._losable):",
                "for vcpu in [one for one in self._vcpus.values()"
                " if one.state in (_RUNNABLE, _BLOCKED, _OFFLINE)]:",
            ),
        ),
        "s of CPU",
        ("flood", "-i"),
    ),
    "losses in report": Revert(
        "traces",
        "each loss looks at all vCPUs, in compiled code",
        (
            (
                "analysis/state_machine/loops.py",
                "        while left != 0:\n",
                "        for _ in range(SET_BITS):\n",
            ),
        ),
        "s of CPU",
        ("long flood 30000 8000000", "--only-findings"),
    ),
    "periods": Revert(
        "traces",
        "each period adds up all vCPUs, in stat",
        (
            (
                "probes/live/counters.py",
                "            self._account(vcpu, end)\n",
                "            for one in self._vcpus.values():\n                self._account(one, end)\n",
            ),
        ),
        "s of CPU",
        ("rare", "stat"),
    ),
    "rows": Revert(
        "traces",
        "intervals without a record are printed for as many years as a trace spans",
        (("cli/live/feed.py", "MAX_ROWS = 120_000", "MAX_ROWS = 1 << 60"),),
        "s of CPU",
        ("rare", "stat"),
    ),
    "floats": Revert(
        "traces",
        "sums of times are looked up as floats, of 53 bits",
        (
            (
                "analysis/measures/lookup.py",
                "np.append(rows[column].astype(np.int64), 0)[places]",
                "np.append(rows[column].astype(float), 0)[places].astype(np.int64)",
            ),
        ),
        "total_cycles is -",
        ("long_times",),
    ),
    "rows of one pCPU": Revert(
        "summaries",
        "a table of pCPUs in which one is any number of times",
        (
            ("analysis/summary/summary_file.py", "    _check_rows(made)\n", ""),
            (
                "analysis/measures/over_time.py",
                'in distinct(measures.partial.pcpus["pcpu"]).tolist()',
                'in measures.partial.pcpus["pcpu"].tolist()',
            ),
        ),
        "s of CPU",
        ("rows pcpus",),
    ),
    "rest": Revert(
        "summaries",
        "parts of a slot of time that exceed it leave a rest below 0",
        (("analysis/measures/over_time.py", "np.maximum(rest[inside], 0)", "rest[inside]"),),
        "unknown_cycles is -",
        ("sums of slots",),
    ),
    "no span": Revert(
        "summaries",
        "a span of 0 with times in it",
        (
            (
                "analysis/findings/evidence.py",
                "return max(self.measures.span_cycles, 1)",
                "return self.measures.span_cycles",
            ),
        ),
        "traceback",
        ("no span",),
    ),
    "no share": Revert(
        "json",
        "a share of the running time of a domain that may never have run",
        (
            (
                "analysis/findings/rules/events/fences.py",
                '    if math.isnan(high):\n        return "cost',
                '    if math.isnan(-1):\n        return "cost',
            ),
        ),
        "traceback: ValueError: cannot convert float NaN",
        ("calibration",),
    ),
    "a trial's texts": Revert(
        "json",
        "control characters in the file of a trial",
        (("analysis/trial/result.py", "        return printable(found)\n", "        return found\n"),),
        "control characters on stdout",
        ("trial",),
    ),
    "ratio": Revert(
        "traces",
        "compressed input that unpacks to any size",
        (("probes/intact/compressed.py", "_MOST_RATIO = 200", "_MOST_RATIO = 1 << 40"),),
        "s of CPU",
        ("unpacks to 20 GB",),
    ),
    "tallies": Revert(
        "traces",
        "tallies of any number",
        ((_MACHINE, f"{_TABLES} = 1 << 19, 1 << 18, 1 << 18", f"{_TABLES} = 1 << 40, 1 << 18, 1 << 18"),),
        "MB resident",
        ("tallies",),
    ),
    "chunks": Revert(
        "traces",
        "octaves of histograms of any number",
        ((_MACHINE, f"{_TABLES} = 1 << 19, 1 << 18, 1 << 18", f"{_TABLES} = 1 << 19, 1 << 18, 1 << 40"),),
        "MB resident",
        ("octaves",),
    ),
    "vcpu ids": Revert(
        "traces",
        "a table of vCPUs that is not keyed",
        ((_MACHINE, "= secrets(1)[0]", f"= {KNOWN_FACTOR}"),),
        "s of CPU",
        ("colliding vCPUs",),
    ),
    "keys": Revert(
        "traces",
        "tables of interrupts and RIPs that are not keyed",
        (
            (
                _MACHINE,
                "self._kept = Kept()",
                f"self._kept = Kept()\n        self._kept.state[K.SECRET :] = {KNOWN_FACTOR}",
            ),
        ),
        "s of CPU",
        ("colliding rips",),
    ),
    "headers": Revert(
        "summaries",
        "NumPy reads the headers of arrays, as Python",
        (
            (
                "analysis/summary/summary_file.py",
                "    header = _NPY.match(content)\n",
                "    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)\n"
                "    header = _NPY.match(content)\n",
            ),
        ),
        "traceback",
        ("header ",),
    ),
    "texts": Revert(
        "summaries",
        "a summary with text of any size",
        (("analysis/summary/summary_head.py", "_MAX_JSON_BYTES = 16 << 20", "_MAX_JSON_BYTES = 1 << 40"),),
        "MB resident",
        ("texts",),
    ),
    "numbers": Revert(
        "summaries",
        "a summary with numbers of any size",
        (("analysis/summary/summary_head.py", "\n_MAX_BYTES = 256 << 20", "\n_MAX_BYTES = 1 << 40"),),
        "MB resident",
        ("numbers",),
    ),
    "lines": Revert(
        "captures",
        "lines of JSON of any length",
        (("probes/capture/layout.py", "_MAX_LINE_BYTES = 1 << 20", "_MAX_LINE_BYTES = 1 << 40"),),
        "MB resident",
        ("line of",),
    ),
    "endless": Revert(
        "captures",
        "links, pipes and devices inside of a capture",
        (("probes/capture/inside.py", "elif stat.S_ISREG(mode):", "elif mode:"),),
        "s of CPU",
        ("endless /dev",),
    ),
}

#: The first case of each that is a fault without the fix, by `python -m soak.reverts`.
KEPT = {
    "restarts": 220,
    "witnesses": 119,
    "messages": 37,
    "calibration": 91,
    "meta": 30,
    "steps": 13,
    "masked": 4,
    "far targets": 4396,
    "losses in report": 422,
    "holes": 8019,
    "losses in stat": 2,
    "floats": 3001,
    "rows of one pCPU": 3013,
    "rest": 80,
    "no span": 56,
    "no share": 3763,
    "a trial's texts": 4121,
    "periods": 92,
    "rows": 92,
    "ratio": 8,
    "tallies": 14,
    "chunks": 20,
    "vcpu ids": 26,
    "keys": 32,
    "lines": 8,
    "endless": 2,
    "headers": 2,
    "texts": 8,
    "numbers": 14,
}


@contextmanager
def without(name: str) -> Iterator[Path]:
    """Make a copy of the tree in which a fix is taken out."""
    with tempfile.TemporaryDirectory(prefix="xtrace-") as made:
        tree = Path(made)
        for folder in _FOLDERS:
            shutil.copytree(
                ROOT / folder,
                tree / folder,
                symlinks=True,
                ignore=shutil.ignore_patterns("__pycache__", "*.bin.xz.part"),
            )
        for file in _FILES:
            shutil.copy2(ROOT / file, tree / file)
        for path, old, new in REVERTS[name].edits:
            text = (tree / path).read_text()
            if text.count(old) != 1:
                raise LookupError(f"{name}: {path} has {text.count(old)} times: {old}")
            (tree / path).write_text(text.replace(old, new))
        yield tree


def faults(
    tree: Path, revert: Revert, seeds: range, *, like: Sequence[str] = ()
) -> Iterator[tuple[int, str]]:
    """Run cases on a tree in a process of its own; yield the seed and faults of those that have some.

    It ends at the first fault that is the revert's.

    Args:
        like: run no other cases than those that have these words.
    """
    folder = tree / "cases"
    command = [sys.executable, "-m", "soak.reverts", "--inside", revert.kind, str(folder), str(seeds.start)]
    command += [str(seeds.stop), revert.fault, *like]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = f"{tree}:{tree / 'tests'}"
    done = subprocess.run(
        command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=_LIMIT_S
    )
    for line in done.stdout.splitlines():
        seed, found = json.loads(line)
        yield seed, "; ".join(found)


def _inside(kind: str, folder: str, first: str, end: str, until: str, *like: str) -> int:
    from soak import child
    from soak.campaign import Campaign

    campaign = Campaign(Path(folder))
    campaign.prepare([kind])
    for seed in range(int(first), int(end)):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            case = campaign.case(kind, seed, Path(place))
            if not all(word in f"{case.what} {case.argv}" for word in like):
                continue
            outcome = child.run(case, Path(place))
        if outcome.faults:
            sys.stdout.write(json.dumps([seed, outcome.faults]) + "\n")
            sys.stdout.flush()
            if any(until in fault for fault in outcome.faults):
                break
    return 0


def main() -> int:
    """Find the first case of each."""
    if sys.argv[1:2] == ["--inside"]:
        return _inside(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--most", type=int, default=400)
    parser.add_argument("names", nargs="*", default=list(REVERTS), metavar="NAME")
    given = parser.parse_args()
    for name in given.names:
        revert = REVERTS[name]
        with without(name) as tree:
            seeds = range(given.first, given.first + given.most)
            found = list(faults(tree, revert, seeds, like=revert.like))
        for seed, text in found[-3:] or [(-1, "nothing found")]:
            sys.stdout.write(f"{name}: {revert.kind} {seed}: {text}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
