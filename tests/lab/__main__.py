"""Run scenarios on a real Xen host in emulation.

usage, in the folder tests: python3 -m lab
       image [full]           build the image if needed (with full, its disks too) and print the paths
       run [SCENARIO...]      run scenarios (default: all) and check their results
       run-only SCENARIO...   run scenarios without checks
       quick                  run and check the reliable scenarios
       check SCENARIO...      only check the results of earlier runs
       repeat N SCENARIO...   run and check each scenario N times, count how often it passes
       shell [full]           a shell in dom0 on this terminal
       command [full] LINE    run a shell line in dom0 and print its output

Results go to build/lab/SCENARIO, or to $XTRACE_LAB_RESULTS/SCENARIO.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lab import disk, image, machine, scenario, wheel
from lab.machine import Host
from lab.packages import LabError

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_COMMAND_LIMIT_S = 300
#: Compare xenalyze's figures for a trace with those of the state machines.
_COMPARISONS = _HERE.parent / "analysis" / "tables" / "test_against_xenalyze.py"
#: Reliable, according to the pass rates in README.md.
_QUICK = ("quick",)


def results() -> Path:
    """Return the folder that has a folder of files for each scenario."""
    return Path(os.environ.get("XTRACE_LAB_RESULTS") or _ROOT / "build" / "lab")


def run(names: Sequence[str]) -> int:
    """Run scenarios and return how many did not complete."""
    booted = image.image()
    failed = 0
    for name in names:
        outcome = scenario.run(scenario.load(name), booted, results() / name)
        failed += not outcome.passed
        _say(name, outcome)
    return failed


def repeat(count: int, names: Sequence[str]) -> int:
    """Run and check each scenario ``count`` times, print the outcomes, and return how many runs failed."""
    booted = image.image()
    failed = 0
    for name in names:
        ends: Counter[str] = Counter()
        for number in range(count):
            folder = results() / name
            outcome = scenario.run(scenario.load(name), booted, folder)
            _say(f"{name} {number + 1}/{count}", outcome)
            checked = outcome.passed and not check([name])
            ends[outcome.status if checked or not outcome.passed else "checks failed"] += 1
            if not checked:
                failed += 1
                folder.rename(folder.with_name(f"{name}.failed.{os.getpid()}.{failed}"))
        _print(f"{name}: {', '.join(f'{times} {status}' for status, times in ends.most_common())}")
    return failed


def command(text: str, host: Host) -> int:
    """Run one shell line in dom0, print its output and return its exit code."""
    booted = image.image()
    with tempfile.TemporaryDirectory() as scratch:
        share = Path(scratch)
        (share / "job").write_text(f". /lib/lab.sh\n{text}\n")
        ran = machine.run(host, booted, share, _COMMAND_LIMIT_S)
        output = share / "output"
        sys.stdout.write(output.read_text(errors="replace") if output.exists() else "")
        status = share / "status"
        if not status.exists():
            serial = (share / "serial.log").read_text(errors="replace").splitlines()
            raise LabError(
                "\n".join([f"no end within {ran.wall_s:.0f} s; last console lines:", *serial[-10:]])
            )
        return int(status.read_text())


def shell(host: Host) -> int:
    """Run a shell in dom0 on this terminal; /share is a temporary folder."""
    booted = image.image()
    with tempfile.TemporaryDirectory() as share:
        return machine.shell(host, booted, Path(share))


def _wheel() -> Path:
    return wheel.wheel_disk(scenario.python())


def check(names: Sequence[str]) -> int:
    """Compare the scenarios' results with what dom0 and the guests know; return pytest's exit code."""
    files = [*sorted((_HERE / "checks").glob("check_*.py")), _COMPARISONS]
    traces = [results().resolve() / name / f"{name}.bin" for name in names]
    traces = [path for path in traces if path.exists()]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "XTRACE_LAB_RESULTS": str(results().resolve()),
        "XTRACE_LAB_SCENARIOS": " ".join(names),
        "XTRACE_COMPARED_TRACES": os.pathsep.join(map(str, traces)),
        "XTRACE_REQUIRE_PEERS": "1",
    }
    python = scenario.python()
    if not Path(python).exists():
        raise LabError(f"the checks need {python}; create it with ./run test --version")
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
        # Dozens of calibrations and reports, while an emulator runs.
        "-o",
        "timeout=900",
        "-o",
        "faulthandler_timeout=1000",
        "-o",
        "empty_parameter_set_mark=skip",
    ]
    # -P, and without the caller's PYTHONPATH: the checkout's packages have the names of folders of tests/.
    command = [python, "-P", "-m", "pytest", *options, *map(str, files)]
    return subprocess.call(command, cwd=_ROOT, env=environment)


def _say(name: str, outcome: scenario.Outcome) -> None:
    ran = outcome.ran
    _print(f"lab: {name}: {outcome.status}, {ran.wall_s:.0f} s, {ran.cpu_s:.0f} s of CPU")
    if not outcome.passed:
        output = outcome.folder / "output"
        source = output if output.exists() else outcome.folder / "serial.log"
        for line in source.read_text(errors="replace").splitlines()[-15:]:
            _print(f"    {line}")


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Execute the command line and return the exit code."""
    match arguments:
        case ["image"]:
            _print(str(image.image()))
            return 0
        case ["run", *names]:
            chosen = names or scenario.names()
            return 1 if run(chosen) else check(chosen)
        case ["run-only", *names] if names:
            return 1 if run(names) else 0
        case ["quick"]:
            return 1 if run(_QUICK) else check(_QUICK)
        case ["check", *names] if names:
            return check(names)
        case ["repeat", count, *names] if count.isdecimal() and names:
            return 1 if repeat(int(count), names) else 0
        case ["image", "full"]:
            _print(f"{image.image()}\n{disk.disk()}\n{_wheel()}")
            return 0
        case ["shell"]:
            return shell(Host())
        case ["shell", "full"]:
            return shell(machine.full(Host(), disk.disk(), _wheel()))
        case ["command", text]:
            return command(text, Host())
        case ["command", "full", text]:
            return command(text, machine.full(Host(), disk.disk(), _wheel()))
    sys.stderr.write(__doc__ or "")
    return 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
