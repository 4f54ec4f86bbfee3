"""Run herd7 on the litmus tests of the usual sites and of the shapes, and keep what it says.

    PYTHONPATH=tests python -m builders.herd_outcomes HERD7 LIBDIR [SECONDS]

herd7 must be the one of commit f39027be; it is built outside the repository.  Outcomes that are known are
not asked for again.  A test that does not end in time is kept as such, and is asked for again if it is
given more CPU time.  Sites share many tests, so a test is known by its text, not by its site.
"""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from builders.shapes import built, shapes
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.proof.description import Description
from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Take, Width, describe

KEPT = Path(__file__).parents[1] / "symbols" / "proof" / "herd_outcomes.json"
COMMIT = "f39027be"
#: Ask only whether the condition can hold: its candidates are dropped before the model judges them.
_OPTIONS = ("-optace", "true", "-speedcheck", "fast")
CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"fence": Fence.LFENCE},
    {"fence": Fence.MFENCE},
    {"width": Width.LOCKED},
    {"retest": Retest.BEFORE},
    {"retest": Retest.NONE},
    {"retest": Retest.XEN_EXIT},
    {"width": Width.WIDE},
)
TAKES: tuple[dict[str, object], ...] = (
    {"take": Take.XCHG_FIRST},
    {"take": Take.NONE},
    {"take": Take.READ},
    {"take": Take.READ, "fence": Fence.MFENCE},
    {"take": Take.PLAIN},
)


def usual() -> dict[str, Description]:
    """Return the usual sites by name: each kind, with one change at a time."""
    found: dict[Description, str] = {}
    for protocol in (Protocol.MASK, Protocol.UNMASK, Protocol.RESTORE, Protocol.HANDLER):
        for change in (*CHANGES, *(TAKES if protocol is Protocol.HANDLER else ())):
            words = [str(protocol), *(f"{key} {value}" for key, value in change.items())]
            description = describe(replace(Scenario(protocol), **change))  # type: ignore[arg-type]
            found.setdefault(description, ", ".join(words))
    return {name: description for description, name in found.items()}


def of_shapes(folder: Path) -> Iterator[tuple[str, Description]]:
    """Yield the source and the description of each site of the shapes that has one."""
    for name in shapes():
        for site in find_sites(open_image(built(folder, name))).sites:
            if site.description is not None:
                yield name, site.description


def key(text: str) -> str:
    """Return by what a litmus test is known: its text without its name and title."""
    return hashlib.sha256("\n".join(text.splitlines()[2:]).encode()).hexdigest()[:16]


def texts(description: Description) -> dict[str, str]:
    """Return the litmus tests of a description by their keys."""
    return {key(test.text): test.text for test in litmus_tests("t", description)}


def main(herd: str, libdir: str, seconds: str = "60") -> None:
    """Ask for what is not known yet, and write all."""
    version = subprocess.run([herd, "-version"], capture_output=True, text=True, check=True).stdout
    assert COMMIT in version, version
    outcomes: dict[str, str] = json.loads(KEPT.read_text())["outcomes"] if KEPT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        wanted: dict[str, str] = {}
        for description in [*usual().values(), *(one for _, one in of_shapes(Path(folder)))]:
            wanted |= texts(description)
    todo = [name for name in wanted if _is_open(outcomes.get(name), int(seconds))]
    todo.sort(key=lambda name: len(wanted[name]))
    command = [herd, "-set-libdir", libdir, *_OPTIONS]
    for number, name in enumerate(todo, 1):
        outcomes[name] = _outcome(command, wanted[name], int(seconds))
        sys.stderr.write(f"{number} of {len(todo)}: {name} {outcomes[name]}\n")
        if number % 10 == 0:
            _keep(version, outcomes, wanted)
    _keep(version, outcomes, wanted)


def _keep(version: str, outcomes: dict[str, str], wanted: Iterable[str]) -> None:
    kept = {one: outcomes[one] for one in sorted(wanted) if one in outcomes}
    about = {"herd7": version.split(",")[0], "commit": COMMIT, "outcomes": kept}
    KEPT.write_text(json.dumps(about, indent=0) + "\n")


def _is_open(outcome: str | None, seconds: int) -> bool:
    late = re.fullmatch(r"not ended in (\d+) s", outcome or "")
    return outcome is None or (late is not None and int(late[1]) < seconds)


def _outcome(command: list[str], text: str, seconds: int) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".litmus", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        limited = ["prlimit", f"--cpu={seconds}", *command, file.name]
        done = subprocess.run(limited, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGXCPU or done.returncode == -signal.SIGKILL:
        return f"not ended in {seconds} s"
    found = re.search(r"^Observation \S+ (\w+)", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"herd7 says no outcome: {done.stdout}{done.stderr}")
    return found[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
