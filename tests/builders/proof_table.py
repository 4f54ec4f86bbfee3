"""What both checkers and herd7 say about each source of the shapes, as the table in docs/sites.md.

PYTHONPATH=tests python -m builders.proof_table
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

from builders.herd_outcomes import KEPT, of_shapes, texts
from xtrace.symbols.proof import axiomatic, operational
from xtrace.symbols.proof.description import Description

HEAD = (
    "| source | sites | that lose an upcall, by the model checker | by the axioms "
    "| litmus tests | herd7: never | lost |",
    "|---|---|---|---|---|---|---|",
)
_ENDED = {"Never": "never", "Sometimes": "lost", "Always": "lost"}


def table(folder: Path) -> list[str]:
    """Return the lines of the table; the shapes are compiled in a folder."""
    outcomes: dict[str, str] = json.loads(KEPT.read_text())["outcomes"]
    sites: dict[str, list[Description]] = {}
    for name, description in of_shapes(folder):
        sites.setdefault(name, []).append(description)
    lost = {
        one: (not operational.check(one).holds, not axiomatic.check(one).holds)
        for one in {one for found in sites.values() for one in found}
    }
    lines = list(HEAD)
    for name, found in sorted(sites.items()):
        tests = {known for one in found for known in texts(one)}
        said = Counter(_ENDED[outcomes[known]] for known in tests)
        first, second = (sum(lost[one][which] for one in found) for which in (0, 1))
        lines.append(
            f"| {name} | {len(found)} | {first} | {second} "
            f"| {len(tests)} | {said['never']} | {said['lost']} |"
        )
    return lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write("\n".join(table(Path(made))) + "\n")
