"""Try cases of a kind one after the other, and keep what was found: a campaign can be stopped and goes on."""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from soak.child import Case, Outcome, in_child, run

#: Sequences of instructions that a case of the kind "replay" draws.
_SEQUENCES = 300
_MOST_KEPT = 200
#: Of six cases, the third is aimed at a bound.
_ONE_OF, _AIMED = 6, 2
#: Of a file with holes that a case makes.
_MOST_MADE_BYTES = 1 << 41
#: What the commands import; a fork has it already.
_MODULES = (
    "numpy", "iced_x86", "xtrace.cli.main", "xtrace.cli.streams", "xtrace.cli.terminal.progress",
    "xtrace.analysis.report.request", "xtrace.analysis.report.build", "xtrace.analysis.loading.passes",
    "xtrace.analysis.summary.summary_file", "xtrace.analysis.comparison.compare", "xtrace.cli.live.feed",
    "xtrace.cli.render.live", "xtrace.probes.dump.lines", "xtrace.symbols.image.image",
    "xtrace.symbols.sites.finder", "xtrace.cli.render.sites",
)  # fmt: skip


@dataclass(slots=True)
class Tally:
    """What was tried of one kind.

    Attributes:
        next_seed: of the next case.
        tried_count, fault_count: cases.
        cpu_s: CPU time of the children.
        most_resident_bytes, most_cpu_s: of one child.
        faults: the first of each sort: seed, what was damaged, command line, faults.
    """

    next_seed: int = 0
    tried_count: int = 0
    fault_count: int = 0
    cpu_s: float = 0.0
    most_resident_bytes: int = 0
    most_cpu_s: float = 0.0
    faults: list[dict[str, Any]] = field(default_factory=list)


class Campaign:
    """Cases of all kinds.

    Args:
        folder: for the state, the compiled guests and what cases read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        for name in _MODULES:
            import_module(name)
        from soak import bounds, cases

        self.kinds: dict[str, Callable[[random.Random, Path], Case]] = cases.KINDS
        self._cases = cases
        self._bounds = bounds.BOUNDS

    def prepare(self, kinds: Sequence[str]) -> None:
        """Make what the kinds start from."""
        # Here, because each case is made in a child of its own: reading the samples takes longer than most.
        from builders.mutated import real_windows

        real_windows()
        if "images" in kinds:
            from builders.damaged_images import victims_in

            made = self._folder / "victims.pickle"
            if not made.exists():
                made.write_bytes(pickle.dumps(victims_in(self._folder / "guests")))
            self._cases.keep_victims(pickle.loads(made.read_bytes()))
        if "summaries" in kinds:
            pid, _, err = in_child(lambda: self._cases.keep_summaries(self._folder) or 0, self._folder)
            if os.waitpid(pid, 0)[1]:
                raise RuntimeError(err.read_text())
            self._cases.keep_summaries(self._folder)
        # A child's collections of garbage would go through all of this: half of the time of some cases.
        gc.collect()
        gc.freeze()

    def one(self, kind: str, seed: int, folder: Path) -> tuple[Case, Outcome]:
        """Make a case in one child and run it in another."""
        if kind == "replay":
            return self._replay(seed, folder)
        case = self.case(kind, seed, folder)
        return case, run(case, folder)

    def case(self, kind: str, seed: int, folder: Path) -> Case:
        """Make a case in a child, and return it."""
        made = folder / "case.pickle"

        def make() -> int:
            case = self._maker(kind, seed)(random.Random(f"{kind} {seed}"), folder)
            made.write_bytes(pickle.dumps(case))
            return 0

        pid, _, err = in_child(make, folder, file_bytes=_MOST_MADE_BYTES)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError(f"{kind} {seed} cannot be made: {err.read_text()}")
        case: Case = pickle.loads(made.read_bytes())
        return case

    def _maker(self, kind: str, seed: int) -> Callable[[random.Random, Path], Case]:
        """Return what makes a case: one of six is aimed at a bound, at each of the kind's in turn."""
        turn, left = divmod(seed, _ONE_OF)
        aimed = self._bounds.get(kind, ())
        return aimed[turn % len(aimed)] if aimed and left == _AIMED else self.kinds[kind]

    def _replay(self, seed: int, folder: Path) -> tuple[Case, Outcome]:
        """Replay random sequences of instructions, and compare what they did with what was proved."""

        def work() -> int:
            from builders.fuzzed_sequences import fuzz

            found = fuzz(seed, _SEQUENCES)
            for line in found.faults[:5]:
                print(line)  # noqa: T201 - into the child's file
            return 4 if found.faults else 0

        pid, out, err = in_child(work, folder, is_limited=False)  # its own child sets limits
        _, status, usage = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        outcome = Outcome([], code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)
        if code:
            outcome.faults.append((out.read_text() or err.read_text())[-500:] or f"code {code}")
        return Case((), f"{_SEQUENCES} sequences", 0), outcome

    def go(
        self, kind: str, seconds: float, *, most_count: int | None = None, told: Callable[[str], None]
    ) -> Tally:
        """Try cases of a kind for some time, or so many, and keep the state."""
        state = self._folder / f"{kind}.json"
        tally = Tally(**json.loads(state.read_text())) if state.exists() else Tally()
        end = time.monotonic() + seconds
        count = 0
        while time.monotonic() < end and (most_count is None or count < most_count):
            seed = tally.next_seed
            folder = Path(tempfile.mkdtemp(prefix="case-", dir=self._folder))
            try:
                case, outcome = self.one(kind, seed, folder)
            finally:
                shutil.rmtree(folder)
            count += 1
            tally.next_seed += 1
            tally.tried_count += 1
            tally.cpu_s += outcome.cpu_s
            tally.most_resident_bytes = max(tally.most_resident_bytes, outcome.resident_bytes)
            tally.most_cpu_s = max(tally.most_cpu_s, outcome.cpu_s)
            if outcome.faults:
                tally.fault_count += 1
                self._note(tally, seed, case, outcome, told, kind)
            part = state.with_suffix(".new")
            part.write_text(json.dumps(asdict(tally), indent=1))
            part.replace(state)
        return tally

    @staticmethod
    def _note(
        tally: Tally, seed: int, case: Case, outcome: Outcome, told: Callable[[str], None], kind: str
    ) -> None:
        argv = [Path(word).name if "/" in word else word for word in case.argv]
        entry = {"seed": seed, "what": case.what[:300], "argv": argv, "faults": outcome.faults}
        told(f"{kind} {seed}: {'; '.join(outcome.faults)} ({' '.join(argv)}: {case.what[:120]})")
        sort = _sort_of(entry)
        if len(tally.faults) < _MOST_KEPT and sum(_sort_of(other) == sort for other in tally.faults) < 3:
            tally.faults.append(entry)


def _sort_of(entry: dict[str, Any]) -> tuple[str, str]:
    """Return what faults of the same sort have in common: the command and the text without numbers."""
    return entry["argv"][0] if entry["argv"] else "", re.sub(r"[0-9.]+", "N", entry["faults"][0])[:120]
