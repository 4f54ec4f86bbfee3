"""The report on the samples agrees with what their guests and dom0 counted, and with their page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest

from builders.host import VMEXIT64
from builders.partials import partial
from oracle.reader import read
from oracle.reading import ALL_SAMPLES, sample_bytes
from xtrace.analysis.report.build import Report, build

NAMES = [path.name.split(".")[0] for path in ALL_SAMPLES]
OWN = [name for name in NAMES if re.match("xen417-(own|sched)-", name)]
SCHEDULED = [name for name in NAMES if name.startswith("xen417-sched-")]
FOLDER = ALL_SAMPLES[0].parent
#: Name prefixes of the events that only one scheduler records.
PREFIXES = {name: f"{name}_" for name in ("credit", "credit2", "null", "rtds")}


def beside(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.bin.xz.json").read_text())


def known(name: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in beside(name)["known"]}


def domain_ids(name: str) -> dict[str, int]:
    return {row[1]: int(row[2]) for row in beside(name)["known"] if row[0] == "created"}


@cache
def reported(name: str) -> Report:
    return build(partial(sample_bytes(FOLDER / f"{name}.bin.xz")))


def total(name: str, table: str, column: str, *keys: str) -> Counter[Any]:
    """Return the sums of a column by one key, or by several as a tuple."""
    sums: Counter[Any] = Counter()
    for row in reported(name).tables[table].to_dict("records"):
        sums[tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]] += row[column]
    return sums


@pytest.mark.parametrize("name", NAMES)
def test_sizes_on_the_page_and_the_sidecar_are_right(name: str) -> None:
    page = (FOLDER / "README.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {name}.bin.xz ")]
    trace = reported(name).trace
    assert f"{trace['records']:,} records" in row
    assert (f"{trace['lost_records']:,} lost" in row) == (trace["lost_records"] > 0)
    assert beside(name)["timing"] == "emulated"
    assert (FOLDER / f"{name}.bin.xz").stat().st_size < 3_000_000


@pytest.mark.parametrize("name", OWN)
def test_own_guests_counters_agree_with_the_trace(name: str) -> None:
    calls = total(name, "hypercalls", "count", "domain", "name")
    commands = total(name, "commands", "count", "domain", "name", "command")
    most = total(name, "upcalls", "upcall_most_count", "domain")
    least = total(name, "upcalls", "upcall_least_count", "domain")
    sent = total(name, "sends", "send_count", "domain")
    assert len(beside(name)["counters"]) == 2
    for text, said in beside(name)["counters"].items():
        domain = int(text)
        assert calls[domain, "iret"] == most[domain] == said["upcall"] >= least[domain] > 0
        assert calls[domain, "xen_version"] == said["force_callback"] == said["pending_found"]
        assert commands[domain, "sched_op", "block"] == said["block"]
        assert commands[domain, "vcpu_op", "set_singleshot_timer"] == said["timer_set"]
        assert sent[domain] >= said["ping_sent"] + said["console_sent"]
        assert said["ping_event"] == said["ping_sent"] > 100


@pytest.mark.parametrize("name", SCHEDULED)
def test_scheduler_is_the_one_in_the_name(name: str) -> None:
    scheduler = name.removeprefix("xen417-sched-")
    assert beside(name)["scheduler"] == scheduler
    assert reported(name).trace["pcpus"] == beside(name)["pcpus"]
    events = set(reported(name).tables["events"]["name"])
    recorded = {one for one, prefix in PREFIXES.items() if any(event.startswith(prefix) for event in events)}
    assert recorded == {scheduler}


def test_traffic_of_busy_guests_is_what_dom0_counted() -> None:
    name = "xen417-pv-all"
    said, ids = known(name), domain_ids(name)
    sent = total(name, "sends", "send_count", "domain")
    assert [int(said[key][0]) for key in ("block_requests", "console_lines")] == [211, 307]
    assert sent[ids["a"]] >= 211 + 101
    for guest, before, after in (row[1:] for row in beside(name)["known"] if row[0] == "upcalls"):
        least = total(name, "upcalls", "upcall_least_count", "domain")[ids[guest]]
        most = total(name, "upcalls", "upcall_most_count", "domain")[ids[guest]]
        assert least <= int(after) - int(before) <= most


def test_pvh_guest_has_exits_and_injections() -> None:
    name = "xen417-pvh-all"
    (guest,) = domain_ids(name).values()
    records = read(sample_bytes(FOLDER / f"{name}.bin.xz")).records
    exits = Counter((guest, record.words[0]) for record in records if record.event == VMEXIT64)
    assert total(name, "vm_exits", "count", "domain", "reason") == exits
    assert exits.total() == 827
    assert total(name, "injections", "injection_count", "domain")[guest] == 91
    assert int(known(name)["console_lines"][0]) == 211


@pytest.mark.parametrize("fence", ["lfence", "none"])
def test_image_of_own_guests_has_the_fences_in_its_name(fence: str) -> None:
    program = "import sys; from xtrace.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", program, "sites", "--json", str(FOLDER / f"own-{fence}.elf")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    sites = json.loads(done.stdout)["sites"]
    fenced = [site["symbol"] for site in sites if "lfence" in {one["mnemonic"] for one in site["fences"]}]
    masking = ["upcalls_mask", "upcalls_restore", "upcalls_save", "upcalls_unmask"]
    assert sorted(set(fenced)) == (masking if fence == "lfence" else [])
    assert set(masking) <= {site["symbol"] for site in sites}


def test_every_file_in_the_folder_is_on_its_page() -> None:
    page = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        if path.suffix in (".xz", ".elf") and ".log." not in path.name:
            assert f"| {path.name} " in page, path.name
