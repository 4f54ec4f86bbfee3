"""The processor itself never shows what the checkers forbid; what they allow it may show, and it does."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import Fence, Protocol, Scenario, Take, describe

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.machine() != "x86_64" or len(os.sched_getaffinity(0)) < 2,
    reason="needs gcc and two x86-64 CPUs",
)
SOURCE = Path(__file__).parent / "hardware.c"
ROUNDS = int(os.environ.get("XTRACE_HARDWARE_ROUNDS", "400000"))
TRIES = 6
#: The handlers of hardware.c as scenarios: a plain read of S, or an xchg of it, after P := 0 and a fence.
HANDLERS = {
    "xchg": Scenario(Protocol.HANDLER),
    "mfence": Scenario(Protocol.HANDLER, Fence.MFENCE, take=Take.READ),
    "lock": Scenario(Protocol.HANDLER, Fence.LOCK, take=Take.READ),
    "lfence": Scenario(Protocol.HANDLER, Fence.LFENCE, take=Take.READ),
    "none": Scenario(Protocol.HANDLER, take=Take.READ),
}


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    """Return how often each outcome of each handler was seen, until store buffering was."""
    program = tmp_path_factory.mktemp("hardware") / "hardware"
    flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
    subprocess.run(["gcc", *flags, SOURCE, "-o", program], check=True, timeout=60)
    found: dict[str, dict[str, int]] = {name: {} for name in HANDLERS}
    for _ in range(TRIES):
        done = subprocess.run([program, str(ROUNDS)], capture_output=True, text=True, timeout=300, check=True)
        for line in done.stdout.splitlines():
            name, _, *pairs = line.split()
            for outcome, number in zip(pairs[::2], pairs[1::2], strict=True):
                found[name][outcome] = found[name].get(outcome, 0) + int(number)
        if found["none"]["lost"]:
            break
    return found


@pytest.mark.parametrize("name", HANDLERS)
def test_the_processor_loses_nothing_that_the_model_keeps(
    counts: dict[str, dict[str, int]], name: str
) -> None:
    print(name, counts[name])  # noqa: T201
    assert sum(counts[name].values()) >= ROUNDS
    if check(describe(HANDLERS[name])).holds:
        assert counts[name]["lost"] == 0


def test_store_buffering_is_seen(counts: dict[str, dict[str, int]]) -> None:
    """Without a fence the event is lost at times: lfence does not change that."""
    if not counts["none"]["lost"] + counts["lfence"]["lost"]:
        pytest.skip(f"not seen in {TRIES} runs: the two CPUs did not run at the same time; {counts}")
    assert counts["xchg"]["lost"] == counts["mfence"]["lost"] == counts["lock"]["lost"] == 0
