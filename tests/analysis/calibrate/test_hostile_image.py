"""A calibration with an image whose code does what was not proved: only its own figures are lost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

import pytest

from builders.guest import Builder as GuestBuilder
from builders.guest import Variant
from xtrace.analysis.calibrate import run as module
from xtrace.analysis.calibrate.run import Guest, Settings, calibrate
from xtrace.probes.timing import child
from xtrace.probes.timing.calibration import (
    CLOSE_CONTEXTS,
    COLD_CONTEXTS,
    CONTEXTS,
    FENCES,
    KINDS,
    Calibration,
)
from xtrace.probes.timing.pairs import Wanted
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.site_loop import Replay, Variants, replays
from xtrace.symbols.replay.timed_loop import DATA_ADDRESS, Body
from xtrace.symbols.x86.encode import Assembler, At

STANDARD = len(FENCES) * (
    len(KINDS) * 2 * (len(CONTEXTS) - 1 - len(COLD_CONTEXTS))
    + 3 * len(set(CLOSE_CONTEXTS) - set(COLD_CONTEXTS))
)
GUARD = DATA_ADDRESS + timed_loop.GUARDS[0][0]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Replay]:
    path = GuestBuilder(tmp_path_factory.mktemp("guest")).build("netbsd.c", Variant()).image
    image = open_image(path)
    return [item for item in replays(image, find_sites(image, lines=False)) if item.core is not None]


@pytest.fixture(autouse=True)
def _a_test_machine_is_never_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_noise", lambda *_: ())


def hostile(item: Replay, emit: Callable[[Assembler], None]) -> Replay:
    """Return a site's replay whose fenced body is other code."""
    assert item.core is not None
    variants = Variants(Body(emit), item.core.plain, None)
    return replace(item, core=variants, whole=variants)


def dies(asm: Assembler) -> None:
    asm.op("UD2")


def writes(asm: Assembler) -> None:
    asm.op("MOV_RM64_IMM32", At(-1, GUARD), 1)


def measured(items: list[Replay], seconds: float = 3.0) -> Calibration:
    return calibrate(
        Settings(seconds=seconds, cold=False, wanted=Wanted(run_cycles=500.0)), Guest(items, "ab")
    )


def test_its_rows_are_lost_and_no_others(found: list[Replay], monkeypatch: pytest.MonkeyPatch) -> None:
    text = inspect.getsource(child).replace("libc.unshare(", "(lambda _: -1)(")
    monkeypatch.setattr(inspect, "getsource", lambda _: text)
    made = measured([hostile(found[0], writes), hostile(found[1], dies), *found[2:]])
    standard = [row for row in made.rows if row.place != "site"]
    assert len(standard) == STANDARD
    lost = {(row.pair_count, row.note) for row in standard if not row.pair_count or "thrown" in row.note}
    assert not lost
    for number, words in enumerate(("its code strayed: memory that no code writes", "SIGILL")):
        rows = [row for row in made.rows if row.address == found[number].site.address]
        assert len(rows) == len(CONTEXTS) - len(COLD_CONTEXTS)
        assert all(row.stands_in and words in row.note and "thrown away" in row.note for row in rows)
        assert any(words in line and line.endswith(" times)") for line in made.notes), made.notes
    others = [row for row in made.rows if row.place == "site" and not row.stands_in]
    assert {row.address for row in others} == {item.site.address for item in found[2:]}
    assert all(row.pair_count > 0 for row in others)
    # Walls that this system lacks are one line.
    said = [line for line in made.notes if "the image's code ran without" in line]
    assert len(said) == 1
    assert "user, mount, net, pid namespaces" in said[0]


def test_a_user_without_namespaces_runs_no_code_of_an_image(
    found: list[Replay], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = inspect.getsource(child).replace("libc.unshare(", "(lambda _: -1)(")
    text = text.replace("os.geteuid() == 0", "False")
    monkeypatch.setattr(inspect, "getsource", lambda _: text)
    made = measured(found[:2], 0.5)
    sites = [row for row in made.rows if row.place == "site"]
    assert sites
    assert all(row.stands_in and "no user namespace" in row.note for row in sites)
