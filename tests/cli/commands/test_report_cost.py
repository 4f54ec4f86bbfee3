"""`xtrace report --calibration --rates --kernel` with the lab guest's image and a simulated trace."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders.host import Simulation, simulate
from builders.made_costs import HZ, LFENCE, calibration, row, rows_of
from builders.made_trials import group, result
from lab.guest.build import Variant, build
from xtrace.analysis.trial.result import Interval
from xtrace.analysis.trial.result import text_of as trial_text
from xtrace.cli.main import main
from xtrace.probes.timing.calibration import text_of
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind

WIDTH = 80
DOMAIN = 1
#: Counters as the guest prints them; mask = restore + unmask + block.
COUNTS = {"mask": 9100, "save": 6000, "restore": 6000, "unmask": 3001, "force_callback": 0, "round": 3000}

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    return build(tmp_path_factory.mktemp("guest"), Variant("lfence", "inline"))


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    return build(tmp_path_factory.mktemp("guest"), Variant("lfence", "outofline"))


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(7, 2, [(0, 1, "pv"), (DOMAIN, 1, "pv")], int(HZ / 20))


@pytest.fixture
def trace(tmp_path: Path, simulation: Simulation) -> Path:
    path = tmp_path / "trace.bin"
    path.write_bytes(simulation.data)
    return path


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "guest.log"
    path.write_text(f"xtrace-guest: counters {json.dumps(COUNTS)}\r\nxtrace-guest: done\n")
    return path


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    path = tmp_path / "calibration.json"
    path.write_text(text_of(calibration(*rows_of(LFENCE, 0.0), *rows_of({"empty": 30.0}, place="outofline"))))
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str | Path) -> tuple[int, str]:
        code = main(["report", "--cpu-hz", f"{HZ:.0f}", *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out or err

    return call


def tables(run: Run, *arguments: str | Path) -> dict[str, list[dict[str, Any]]]:
    code, out = run("--json", *arguments)
    assert code == 0, out
    found = json.loads(out)["tables"]
    return {name: found[name]["rows"] for name in found if name.startswith("cost_")}


def test_executions_of_each_site_match_the_guests_counters(
    run: Run, image: Path, trace: Path, log: Path, measured: Path
) -> None:
    found = tables(run, "--kernel", f"1={image}", "--rates", log, "--calibration", measured, trace)
    executed = {(row["place"].split("+")[0], row["kind"]): row for row in found["cost_sites"]}
    expected = {
        ("upcalls_mask", "mask"): 3100,
        ("upcalls_save", "mask"): 6000,
        ("upcalls_restore", "restore"): 6000,
        ("upcalls_unmask", "unmask"): 3001,
    }
    assert set(executed) == set(expected)
    for key, count in expected.items():
        site = executed[key]
        assert site["execution_low_count"] == site["execution_high_count"] == count
        assert (site["executions_quality"], site["priced_by"]) == ("exact", "standard")
        # The guest's upcall handler has no mask site: Xen sets the mask when it delivers an upcall.
        assert (site["upcall_least_count"], site["upcall_most_count"]) == (0, 0)
    (domain,) = found["cost_domains"]
    assert domain["execution_low_count"] == sum(expected.values())
    assert domain["cost_low_cycles"] == pytest.approx(13 * sum(expected.values()))
    assert domain["cost_low_ns"] == pytest.approx(13 * sum(expected.values()) / HZ * 1e9)
    (upcall,) = found["cost_upcalls"]
    assert (upcall["execution_least_count"], upcall["execution_most_count"]) == (0, 0)
    assert upcall["entry"].startswith("symbol hypervisor_callback")


def test_diff_compares_costs_from_summaries(
    run: Run,
    image: Path,
    trace: Path,
    log: Path,
    measured: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    unfenced = build(tmp_path, Variant("none", "inline"))
    paths = []
    for name, kernel in (("old", image), ("new", unfenced)):
        path = tmp_path / f"{name}.summary"
        inputs = ("--kernel", f"1={kernel}", "--rates", log, "--calibration", measured)
        assert run(*inputs, "--summary", path, trace)[0] == 0
        paths.append(str(path))
    (domain,) = tables(run, "--kernel", f"1={image}", "--rates", log, "--calibration", measured, trace)[
        "cost_domains"
    ]
    assert main(["diff", "--json", "--domain", "1", "--metric", "fences_hot_share", *paths]) == 0
    (row,) = json.loads(capfd.readouterr().out)["rows"]
    assert row["old_median"] == pytest.approx(domain["cost_hot_ratio"])
    assert row["new_median"] == 0
    assert domain["cost_hot_ratio"] > 0


def test_the_replay_of_a_site_takes_precedence(
    run: Run, called: Path, trace: Path, log: Path, tmp_path: Path
) -> None:
    table = find_sites(open_image(called), lines=False)
    sites = [site for site in table.sites if site.kind in (Kind.MASK, Kind.RESTORE)]
    path = tmp_path / "own.json"
    path.write_text(
        text_of(
            calibration(
                *rows_of({"empty": 30.0}, 0.0, place="outofline"),
                *(
                    row("site", 41.0, 0.0, kind=str(site.kind), place="site", address=site.address,
                        build_id=table.build_id)
                    for site in sites
                ),
            )
        )
    )  # fmt: skip
    found = tables(run, "--kernel", f"1={called}", "--rates", f"1={log}", "--calibration", path, trace)
    by_kind = {row["kind"]: row for row in found["cost_sites"]}
    assert by_kind["mask"]["priced_by"] == by_kind["restore"]["priced_by"] == "site"
    assert by_kind["unmask"]["priced_by"] == "standard"
    assert (by_kind["mask"]["added_low_cycles"], by_kind["mask"]["added_high_cycles"]) == (30, 41)
    assert by_kind["unmask"]["fence"] == "lfence call"


def test_text_output(run: Run, image: Path, trace: Path, log: Path, measured: Path) -> None:
    code, out = run("--kernel", f"1={image}", "--rates", log, "--calibration", measured, trace)
    assert code == 0
    assert max(map(len, out.splitlines()[1:])) <= WIDTH  # the first names the file
    assert "* d1: removable fences likely cost 0." in out
    assert "(modelled)" in out.split("\n\n")[0]
    assert "What fences cost, as a share of the domain's running time" in out
    assert "d1: replays of its sites: 4 of 4 fenced sites" in " ".join(out.split())
    _, whole = run(
        "--section", "cost", "--kernel", f"1={image}", "--rates", log, "--calibration", measured, trace
    )
    code, out = run("--section", "cost", "--kernel", f"1={image}", trace)
    assert "* d1: removable fences need --calibration" in out
    assert max(map(len, out.splitlines()[1:])) <= WIDTH  # the first names the file
    code, out = run("--section", "cost", "--kernel", f"1={image}", "--calibration", measured, trace)
    # The answer stands before what it lacks, and is a range that is likely, not certain.
    words = " ".join(whole.split())
    assert words.index("removable fences likely cost") < words.index("needs d1: a narrower range")
    assert "where memory is missed" in words
    assert "* d1: removable fences cost at least 0% " in " ".join(out.split())
    code, out = run("--section", "cost", "--kernel", f"1={image}", "--rates", log, trace)
    assert "* d1: removable fences execute 3" in out


def test_missing_inputs_are_listed(run: Run, trace: Path) -> None:
    code, out = run("--section", "cost", trace)
    assert code == 0
    assert "needs    a calibration: " in out
    assert "--kernel 0=IMAGE" in " ".join(out.split())
    _, brief = run(trace)
    assert "needs" not in brief
    assert "fence" not in brief


def test_contradicting_counters_are_reported(run: Run, image: Path, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text('{"counts": {"mask": 5, "save": 900, "upcall": 1000000}, "domain": 1}')
    code, out = run("--section", "cost", "--kernel", f"1={image}", "--rates", path, trace)
    assert code == 0
    words = " ".join(out.split())
    assert re.search(r"! d1: [^*!]*contradict", words)
    assert "d1: counters that agree: 1,000,000 upcall counted, " in words
    assert re.search(r"at least 900 times [^;]*counter save\b[^;]* 0 to 5\b", words)


def test_csv_has_the_tables(
    run: Run, image: Path, trace: Path, log: Path, measured: Path, tmp_path: Path
) -> None:
    code, _ = run(
        "--csv", tmp_path / "out", "--kernel", f"1={image}", "--rates", log, "--calibration", measured, trace
    )
    assert code == 0
    with (tmp_path / "out" / "cost_sites.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 4


def test_usage(run: Run, image: Path, trace: Path, log: Path, tmp_path: Path, measured: Path) -> None:
    for arguments, code, says in (
        (("--rates", log), 2, "whose counters are these?"),
        (("--rates", log, "--rates", f"1={log}", "--kernel", f"1={image}"), 2, "two files for domain 1"),
        (("--rates", f"1={log}", "--from", "0.01"), 2, "of the whole trace"),
        (("--rates", f"1={tmp_path / 'missing'}"), 1, "missing"),
        (("--rates", f"1={image}"), 1, "not a file of guest counters"),
        (("--rates", f"web={log}"), 2, "no domain is called 'web'"),
        (("--kernel", f"web={image}"), 2, "no domain is called 'web'"),
        (("--kernel", f"idle={image}"), 2, "idle domain"),
        (("--kernel", str(image)), 2, "--kernel"),
        (("--unfenced", f"1={trace}@web"), 2, "no domain is called 'web'"),
        (("--calibration", log), 1, "not a calibration"),
        (("--calibration", tmp_path / "missing"), 1, "missing"),
    ):
        found, out = run(*arguments, trace)
        assert (found, out.count("\n")) == (code, 1), out
        assert says in out
    # With the seconds of the count they are rates, which also apply to a part of the trace.
    seconds = tmp_path / "seconds.json"
    seconds.write_text('{"counts": {"mask": 100}, "seconds": 2}')
    code, _ = run("--rates", f"1={seconds}", "--kernel", f"1={image}", "--from", "0.01", trace)
    assert code == 0


@pytest.mark.parametrize(
    ("apart", "agrees"),
    [(0.0, "overlap"), (1.01, "the model is lower"), (-1.01, "the model is higher")],
)
def test_a_trial_that_contradicts_the_model_is_a_finding(
    run: Run,
    image: Path,
    trace: Path,
    log: Path,
    measured: Path,
    tmp_path: Path,
    apart: float,
    agrees: str,
) -> None:
    inputs = ("--kernel", f"1={image}", "--rates", log, "--calibration", measured)
    (domain,) = tables(run, *inputs, trace)["cost_domains"]
    low, high = domain["cost_low_ratio"], domain["cost_high_ratio"]
    shift = apart * (high - low)
    saved = Interval((low + high) / 2 + shift, low + shift, high + shift)
    groups = (group("A/A", "again"), group("all", "all", saved))
    trial = tmp_path / "trial.json"
    trial.write_text(trial_text(result(build_id=open_image(image).build_id, groups=groups)))
    code, out = run("--json", *inputs, "--trial", trial, trace)
    assert code == 0, out
    found = json.loads(out)
    assert [row["agrees"] for row in found["tables"]["cost_estimates"]["rows"]] == [agrees, agrees]
    # The guest's counters of these tests contradict the trace, too: that one is always found.
    (said,) = [item["sentence"] for item in found["findings"] if item["name"] == "cost-contradiction"]
    assert ("a trial measured" in said and f"{agrees}: believe the trial" in said) == (agrees != "overlap")
    # What it is per execution, and in which context that is usual, where that is one.
    assert ("as in no context that was calibrated: one is missing" in said) == (agrees != "overlap")
