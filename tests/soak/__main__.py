"""``make soak``: damage inputs of every kind until the time is over.

    python -m soak [--seconds 3600] [--kinds traces,live] [--folder build/soak]
    python -m soak --one KIND SEED        one case again, with what it prints
    python -m soak --page                 what was tried so far, as a table

Exit code 1: a fault was found.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

from soak.campaign import Campaign

#: A turn of a kind, so that all kinds get about the same time.
_TURN_S = 20.0


def main() -> int:
    """Run a campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"))
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SEED"))
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    if arguments.page:
        _page(folder)
        return 0
    campaign = Campaign(folder)
    kinds = arguments.kinds.split(",") if arguments.kinds else [*campaign.kinds, "replay"]
    if arguments.one:
        return _one(campaign, arguments.one[0], int(arguments.one[1]), folder)
    campaign.prepare(kinds)
    end = time.monotonic() + arguments.seconds
    before = {kind: _faults(folder, kind) for kind in kinds}
    for kind in itertools.cycle(kinds):
        left = end - time.monotonic()
        if left <= 0:
            break
        campaign.go(kind, min(left, _TURN_S), told=_tell)
    _page(folder)
    return int(any(_faults(folder, kind) > count for kind, count in before.items()))


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _one(campaign: Campaign, kind: str, seed: int, folder: Path) -> int:
    campaign.prepare([kind])
    place = Path(tempfile.mkdtemp(prefix=f"one-{kind}-{seed}-", dir=folder))
    case, outcome = campaign.one(kind, seed, place)
    _tell(f"{' '.join(case.argv)}\n{case.what}: {case.input_bytes} bytes, in {place}")
    _tell((place / "stderr").read_text("utf-8", "backslashreplace")[-4000:])
    _tell(f"code {outcome.code}, {outcome.cpu_s:.2f} s, {outcome.resident_bytes >> 20} MB; {outcome.faults}")
    return int(bool(outcome.faults))


def _state(folder: Path, kind: str) -> dict[str, float]:
    path = folder / f"{kind}.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _faults(folder: Path, kind: str) -> float:
    return _state(folder, kind).get("fault_count", 0)


def _page(folder: Path) -> None:
    _tell("| kind | inputs tried | with a fault | CPU, min | most memory, MB | longest, s of CPU |")
    _tell("|---|---|---|---|---|---|")
    total = [0.0, 0.0, 0.0]
    for path in sorted(folder.glob("*.json")):
        found = _state(folder, path.stem)
        if "tried_count" not in found:
            continue
        values = [found["tried_count"], found["fault_count"], found["cpu_s"] / 60]
        total = [a + b for a, b in zip(total, values, strict=True)]
        _tell(
            f"| {path.stem} | {values[0]:,} | {values[1]:,} | {values[2]:.1f} "
            f"| {int(found['most_resident_bytes']) >> 20} | {found['most_cpu_s']:.1f} |"
        )
    _tell(f"| all | {total[0]:,.0f} | {total[1]:,.0f} | {total[2]:.1f} | | |")


if __name__ == "__main__":
    sys.exit(main())
