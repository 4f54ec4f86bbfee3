"""Exchange a worker's code to and fro until killed: alternating.py PROGRAM PID; prints the watchdog's id."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from builders.trial_targets import opened
from xtrace.probes.trial.target import TrialError


def main() -> int:
    try:
        with opened(Path(sys.argv[1]), int(sys.argv[2])) as target:
            sys.stdout.write(f"{target.watchdog_pid}\n")
            sys.stdout.flush()
            arm = 0
            while True:
                arm = 1 - arm
                target.switch(arm)
                target.wait(0.0002)
    except TrialError as error:
        sys.stdout.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
