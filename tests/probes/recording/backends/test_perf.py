"""The perf backend on this kernel: a spinning program is sampled where it spins; pmu modes are restored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.bpf.system import compile_c, drive, require_bpf
from xtrace.analysis.summary import dom0_columns
from xtrace.probes.bpf.ctf_reader import read_samples
from xtrace.probes.bpf.symbols import Names, Symbols, is_hypervisor
from xtrace.probes.capture.layout import Capture
from xtrace.probes.host import dom0
from xtrace.probes.host.run_folder import RUN_DIRECTORY_VARIABLE
from xtrace.probes.recording.backends.perf import PerfBackend

_SPIN = """
volatile unsigned long sink;
__attribute__((noinline, noclone)) void spin(void) { for (;;) sink++; }
int main(void) { spin(); }
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    require_bpf()
    folder = tmp_path_factory.mktemp("perf")
    (folder / "spin.c").write_text(_SPIN)
    executable = compile_c(folder / "spin.c", folder / "xtrace-spin", "-O1", "-no-pie")
    return folder, drive("record", "perf", folder / "c.xtrace", "1.5", "no", str(executable))


def test_a_program_that_spins_is_found_in_its_loop(recorded: tuple[Path, Any]) -> None:
    import subprocess

    folder, said = recorded
    text = subprocess.run(
        ["nm", "-S", folder / "xtrace-spin"], capture_output=True, text=True, check=True
    ).stdout
    address, size = next(
        (int(words[0], 16), int(words[1], 16))
        for line in text.splitlines()
        if (words := line.split())[-1] == "spin"
    )
    records = read_samples(folder / "c.xtrace" / "samples").records
    own = records[records["tgid"] == said["pid"]]
    # Half of what its CPU time amounts to: how much of the machine it got is beyond our control.
    assert len(own) > said["sample_hz"] * said["command_cpu_s"] / 2 > 0
    inside = (own["ip"] >= address) & (own["ip"] < address + size)
    assert inside.mean() > 0.9
    # Before its execve it has the name of the program that started it.
    assert set(own["comm"][inside].tolist()) == {b"xtrace-spin"}


def test_the_recorder_excludes_itself_and_reports_what_was_sampled(recorded: tuple[Path, Any]) -> None:
    folder, said = recorded
    assert said["facts"]["event"] == "software clock"
    assert "interrupts off" in said["facts"]["bias"]
    heading = next(iter(Capture(folder / "c.xtrace", {}).lines("perf/symbols.jsonl")))
    assert heading["bias"] == said["facts"]["bias"]
    assert said["facts"]["bias"] in (folder / "c.xtrace" / "samples" / "metadata").read_text()
    assert said["records"] == len(read_samples(folder / "c.xtrace" / "samples").records)


def test_the_report_names_program_and_kernel_functions(recorded: tuple[Path, Any]) -> None:
    folder, said = recorded
    found = dom0_columns.read(Capture(folder / "c.xtrace", {})).samples
    assert found["count"].sum() == said["records"]
    user = found.where(found["space"] == "user")
    assert user["count"][user["name"] == "xtrace-spin"].sum() > said["sample_hz"] * said["command_cpu_s"] / 2
    kernel = found.where(found["space"] == "kernel")
    if said["facts"]["symbols_of_the_host"] and len(kernel):
        assert (kernel["name"] != "").mean() > 0.9


def _backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> tuple[PerfBackend, Path]:
    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    path = tmp_path / "pmu_mode"
    path.write_text(f"{mode}\n")
    monkeypatch.setattr(dom0, "PMU_MODE", path)
    return PerfBackend(), path


class _Refusing:
    """A program whose hardware event can be opened or, with ``refuse``, cannot."""

    def __init__(self, refuse: bool) -> None:
        self.refuse = refuse
        self.opened: list[int] = []

    def sample(self, program: str, event_type: int, config: int, hz: int) -> None:
        from xtrace.probes.bpf.loader import ProbeError

        if event_type == 0 and self.refuse:
            raise ProbeError("perf event 0:0: No such file or directory")
        self.opened.append(event_type)


def test_the_pmu_mode_is_noted_before_it_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, path = _backend(tmp_path, monkeypatch, "self")
    program = _Refusing(refuse=False)
    assert backend._begin_sampling(program, 99) == ("hardware cycles", "")  # type: ignore[arg-type]
    assert path.read_text() == "all"
    assert len(list((tmp_path / "run").glob("*.note"))) == 1
    backend._put_mode_back()
    assert path.read_text() == "self"
    assert list((tmp_path / "run").glob("*.note")) == []


def test_a_refused_event_restores_the_mode_and_falls_back_to_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, path = _backend(tmp_path, monkeypatch, "self")
    program = _Refusing(refuse=True)
    event, refusal = backend._begin_sampling(program, 99)  # type: ignore[arg-type]
    assert event == "software clock"
    assert program.opened == [1]
    assert "guests and Xen are not sampled" in refusal
    assert path.read_text() == "self"
    assert list((tmp_path / "run").glob("*.note")) == []


def test_a_vpmu_that_is_off_stays_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, path = _backend(tmp_path, monkeypatch, "off")
    event, refusal = backend._begin_sampling(_Refusing(refuse=False), 99)  # type: ignore[arg-type]
    assert event == "software clock"
    assert "vpmu=on" in refusal
    assert path.read_text() == "off\n"


def test_symbols_are_found_by_their_start(tmp_path: Path) -> None:
    path = tmp_path / "symbols"
    path.write_text(
        "ffffffff81000000 T first\nffffffff81000100 t second\tmodule\n0000000000000000 T hidden\n"
        "ffffffff81000080 D data\n"
    )
    symbols = Symbols(path)
    assert len(symbols) == 2
    assert symbols.name(0xFFFFFFFF81000090) == ("first", 0x90)
    assert symbols.name(0xFFFFFFFF81000100) == ("second", 0)
    assert symbols.name(0xFFFFFFFF80FFFFFF) == ("", 0)
    assert symbols.name(0xFFFFFFFF91000100) == ("", 0)
    assert len(Symbols(tmp_path / "nowhere")) == 0


def test_names_are_looked_up_once_and_bounded() -> None:
    names = Names()
    addresses = [0xFFFFFFFF81000000, 0x400000, 0xFFFFFFFF81000000, 0xFFFFFFFF81000010]
    assert [row[0] for row in names.new(addresses, 2)] == ["0xffffffff81000000", "0xffffffff81000010"]
    assert list(names.new(addresses, 2)) == []
    assert list(names.new([0xFFFFFFFF81000020], 2)) == []
    assert is_hypervisor(0xFFFF82D040200000)
    assert not is_hypervisor(0xFFFFFFFF81000000)
