"""Run herd7 on the litmus tests of the usual sites, and keep what it says.

    PYTHONPATH=tests python -m builders.herd_outcomes HERD7 LIBDIR > tests/symbols/proof/herd_outcomes.json

herd7 must be the one of commit f39027be; it is built outside the repository.  A test that does not end in
time is kept as such.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Width, describe

_SECONDS = 10
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


def scenarios() -> dict[str, Scenario]:
    """Return the sites by name: each kind, with one change at a time."""
    found = {}
    for protocol in (Protocol.MASK, Protocol.UNMASK, Protocol.RESTORE, Protocol.HANDLER):
        for change in CHANGES:
            words = [str(protocol), *(f"{key} {value}" for key, value in change.items())]
            found[", ".join(words)] = replace(Scenario(protocol), **change)  # type: ignore[arg-type]
    return found


def main(herd: str, libdir: str) -> None:
    """Print the outcomes as JSON."""
    version = subprocess.run([herd, "-version"], capture_output=True, text=True, check=True).stdout.strip()
    outcomes: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, scenario in scenarios().items():
            said = outcomes.setdefault(name, {})
            for test in litmus_tests("t", describe(scenario)):
                path = Path(folder, f"{test.name}.litmus")
                path.write_text(test.text, encoding="utf-8")
                said[test.name] = _outcome([herd, "-set-libdir", libdir, "-optace", "true", str(path)])
            sys.stderr.write(f"{name} {said}\n")
    kept = {"herd7": version, "commit": "f39027be", "outcomes": outcomes}
    sys.stdout.write(json.dumps(kept, indent=1) + "\n")


def _outcome(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"not ended in {_SECONDS} s"
    found = re.search(r"^Observation \S+ (\w+)", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"herd7 says no outcome: {done.stdout}{done.stderr}")
    return found[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
