"""A whole calibration, run for a short time in a real child.  The values of its figures are not checked."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.guest import Builder as GuestBuilder
from builders.guest import Variant
from xtrace.analysis.calibrate import run as module
from xtrace.analysis.calibrate.plan import Builder, Planned, Substituted, sites, standard
from xtrace.analysis.calibrate.run import Guest, Settings, calibrate
from xtrace.probes.errors import TraceError
from xtrace.probes.timing import calibration, this_host
from xtrace.probes.timing.calibration import (
    CLOSE_CONTEXTS,
    COLD_CONTEXTS,
    CONTEXTS,
    FENCES,
    KINDS,
    Calibration,
)
from xtrace.probes.timing.interval import Interval
from xtrace.probes.timing.pairs import Difference, Wanted
from xtrace.probes.timing.session import Session
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.replay import sequences, timed_loop
from xtrace.symbols.replay.site_loop import replays

#: Runs short enough for a first round of all pairs to take well under a second.
SHORT = Wanted(run_cycles=500.0)
WITHOUT_COLD = [context for context in CONTEXTS if context not in COLD_CONTEXTS]
#: Each kind in two places, and of two close together both and each alone.
STANDARD = len(FENCES) * (
    len(KINDS) * 2 * (len(WITHOUT_COLD) - 1) + 3 * len(set(CLOSE_CONTEXTS) & set(WITHOUT_COLD))
)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    path = GuestBuilder(tmp_path_factory.mktemp("guest")).build("netbsd_amd64.S", Variant()).image
    image = open_image(path)
    return Guest(tuple(replays(image, find_sites(image, lines=False))), image.build_id)


@pytest.fixture(scope="module")
def measured(guest: Guest) -> Calibration:
    before = module._noise
    module._noise = lambda *_: ()  # a test machine is never quiet
    try:
        return calibrate(Settings(seconds=3.0, cold=False, wanted=SHORT), guest)
    finally:
        module._noise = before


def test_every_sequence_has_a_row_in_every_context(measured: Calibration) -> None:
    assert measured.timing == "hardware"
    rows = [row for row in measured.rows if row.place != "site"]
    assert len({(row.kind, row.fence, row.place, row.context) for row in rows}) == len(rows) == STANDARD
    assert not [row.note for row in rows if "ended" in row.note]
    known = [row for row in rows if row.median_cycles is not None]
    assert known
    for row in known:
        assert row.low_cycles is not None
        assert row.high_cycles is not None
        assert row.low_cycles <= row.median_cycles <= row.high_cycles  # type: ignore[operator]
        assert row.median_ns == pytest.approx(row.median_cycles / measured.tsc_hz * 1e9, abs=1e-3)  # type: ignore[operator]


def test_sites_have_rows_in_every_context(measured: Calibration, guest: Guest) -> None:
    rows = [row for row in measured.rows if row.place == "site"]
    named = [item for item in guest.replays if item.fence_name]
    assert len(rows) == len(named) * len(WITHOUT_COLD)
    assert {row.address for row in rows} == {item.site.address for item in named}
    assert {row.build_id for row in rows} == {guest.build_id}
    assert not [row.note for row in rows if "not replayed" in row.note]
    # A fence without a standard sequence gets a note.
    assert [note for note in measured.notes if "cpuid" in note]


def test_a_calibration_can_be_written_and_read_back(measured: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(calibration.text_of(measured))
    assert calibration.read(path) == measured


def test_the_calibration_describes_its_run(measured: Calibration) -> None:
    assert measured.settings["cpu"] == max(os.sched_getaffinity(0))
    assert measured.settings["seconds"] == 3.0
    assert measured.settings["place_count"] == 4
    assert measured.core_per_tsc_ratio is not None
    assert set(measured.host) == {"cpu_model", "microcode", "hypervisor", "kernel"}


def test_a_site_that_cannot_be_run_gets_the_standard_figure(guest: Guest) -> None:
    item = replace(guest.replays[0], core=None, whole=None, reason="no reason")
    rows = list(sites(Builder(0), [item], "ab"))
    assert all(isinstance(row, Substituted) for row in rows)
    assert len(rows) == len(WITHOUT_COLD)
    builder = Builder(0)
    plan = [*standard(builder), *rows]
    known = {
        row.pair: Difference(Interval(5.0, 4.0, 6.0, 99), 7.0, 2.0, 1)
        for row in plan
        if isinstance(row, Planned)
    }
    made = [row for row in module._rows(plan, known, Wanted()) if row.place == "site"]
    assert {row.median_cycles for row in made} == {5.0}
    assert all(row.stands_in for row in made)
    assert {row.note for row in made} == {
        "not replayed: no reason; figure of the outofline standard sequence"
    }


def test_a_site_whose_loop_died_gets_the_standard_figure(guest: Guest) -> None:
    builder = Builder(0)
    plan = [*standard(builder), *sites(builder, guest.replays[:1], None)]
    fine = Difference(Interval(5.0, 4.0, 6.0, 99), 7.0, 2.0, 1)
    dead = Difference(Interval(math.nan, math.nan, math.nan, 0), math.nan, math.nan, 0, "it was killed by X")
    known = {row.pair: dead if row.place == "site" else fine for row in plan if isinstance(row, Planned)}
    made = [row for row in module._rows(plan, known, Wanted()) if row.place == "site"]
    assert {row.median_cycles for row in made} == {5.0}
    assert all("it was killed by X" in row.note for row in made)


def test_an_images_code_is_not_run_without_the_filter(guest: Guest) -> None:
    refused = module._refused(guest.replays)
    assert all(item.core is None and item.whole is None and item.reason for item in refused)


def test_equal_loops_are_laid_out_once() -> None:
    builder = Builder(0)
    loop = timed_loop.loop("empty", timed_loop.chain_body(3, "add", (0,)))
    places = builder.add(loop)
    size = len(builder.program().code)
    assert builder.add(loop) == places
    assert len(builder.program().code) == size
    assert sorted(item.address % 64 for item in places) == [0, 16, 32, 48]


@pytest.mark.parametrize(
    ("pairs", "own", "is_cold", "seconds"),
    [(500, 500, True, 40), (3000, 500, True, 240), (90_000, 500, True, 600), (900, 300, False, 9)],
)
def test_an_image_gets_time_by_the_number_of_its_loops(
    pairs: int, own: int, is_cold: bool, seconds: float
) -> None:
    assert Settings(cold=is_cold).usual_s(pairs, own) == seconds


def test_how_long_an_image_takes_is_said_also_where_it_was_too_short(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []

    def timed(*given: Any) -> Any:
        asked.append(next(item for item in given if isinstance(item, Settings)).seconds)
        return (), [], 0.0, ()

    monkeypatch.setattr(module, "_measured", timed)
    said: list[str] = []
    found = calibrate(Settings(cold=False), guest, say=said.append)
    (line,) = said
    seconds = asked[0]
    assert seconds is not None
    assert seconds > 3
    assert line.endswith(f"measuring takes {seconds:.0f} s")
    assert found.settings["seconds"] == seconds
    found = calibrate(Settings(seconds=1.0, cold=False), guest, say=said.append)
    assert (len(said), asked[1]) == (1, 1.0)
    assert found.timing == "noisy"
    assert f"usually take {seconds:.0f} s" in found.notes[-1]


def test_an_emulated_host_gives_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_host, "emulation", lambda *_: "it says so")
    found = calibrate(Settings(seconds=0.5))
    assert (found.timing, found.rows, found.notes) == ("emulated", (), ("it says so",))
    assert found.core_per_tsc_ratio is None


def test_times_that_are_not_those_of_hardware() -> None:
    assert "multiplications" in module._implausible(module._Clocks(1, (1.0,), 1.02, 200.0))
    assert "flushed" in module._implausible(module._Clocks(1, (1.0,), 2.9, 3.0))
    assert not module._implausible(module._Clocks(1, (1.0,), 2.9, 200.0))


def test_noise_is_reported() -> None:
    found = [Difference(Interval(1.0, 0.0, 9.0, 50), 2.0, 1.0, 50)]
    reasons = module._noise((), found, 0.5)
    words = ("interrupted", "tight", "other processes")
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    rows = calibration.Row("mask", "lfence", "inline", "empty", 1.0, 0.9, 1.1, 9, True)
    assert module._noise((rows,), [replace(found[0], dropped_count=0)], 0.5) == ()


@pytest.mark.parametrize("context", ["cold_chain_2", "cold_chain_4"])
def test_chains_of_misses_stay_in_the_memory_given(context: str) -> None:
    builder = Builder(0, 1 << 22)
    (loop, *_) = builder.add(timed_loop.loop(context, sequences.body("restore", "lfence", "inline")))
    with Session(builder.program(), max(os.sched_getaffinity(0))) as session:
        # More draws than the memory has pages: one outside would end the child.
        cycles, _ = session.run(np.array([[loop.address, 1, 4000]]), 60.0)
    assert cycles[0] > 0
    assert context in builder.contexts
    assert context not in Builder(0).contexts


def test_a_drift_of_the_clock_widens_intervals_and_refuses_nothing() -> None:
    assert module._drift(module._Clocks(1, (1.0, 1.01), 3.0, 200.0)) == 0
    drift = module._drift(module._Clocks(1, (1.0, 1.2), 3.0, 200.0))
    assert drift == pytest.approx(0.2)
    assert "20% wider" in next(iter(module._drift_note(drift)))
    row = calibration.Row(
        "mask", "lfence", "inline", "empty", 10.0, 9.0, 11.0, 9, True,
        lean_median_cycles=-10.0, lean_low_cycles=-11.0, lean_high_cycles=-9.0,
    )  # fmt: skip
    wide = module._widened(row, drift, Wanted())
    assert (wide.low_cycles, wide.high_cycles, wide.tight) == (7.2, 13.2, False)
    assert (wide.lean_low_cycles, wide.lean_high_cycles) == (-13.2, -7.2)
    assert module._widened(row, 0.0, Wanted()) == row


@pytest.mark.parametrize(
    ("free", "size", "says"),
    [(None, 1 << 30, ""), (4 << 30, 1 << 30, ""), (3 << 30, 1 << 29, "512 MB"), (1 << 29, 0, "too few")],
)
def test_cold_memory_is_at_most_a_quarter_of_what_is_free(free: int | None, size: int, says: str) -> None:
    found, note = module.cold_memory(free)
    assert (found, bool(note)) == (size, bool(says))
    assert says in note


def test_a_cpu_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TraceError, match="CPU 4095"):
        calibrate(Settings(cpu=4095))
