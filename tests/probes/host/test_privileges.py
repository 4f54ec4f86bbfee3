"""Capabilities are read from the kernel, and what CAP_SYS_ADMIN includes is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrace.probes.host import privileges
from xtrace.probes.recording import doctor

#: CapEff of: nobody; CAP_BPF and CAP_PERFMON; CAP_SYS_ADMIN; every capability of Linux 6.18.
NONE, TWO, ADMIN, ALL = "0", "c000000000", "200000", "1ffffffffff"


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "status"
    monkeypatch.setattr(privileges, "_STATUS", path)
    return path


@pytest.mark.parametrize(
    ("mask", "lacking"),
    [
        (NONE, ("CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG")),
        (TWO, ("CAP_SYSLOG",)),
        (ADMIN, ("CAP_SYSLOG",)),
        (ALL, ()),
    ],
)
def test_what_is_lacking(mask: str, lacking: tuple[str, ...], status: Path) -> None:
    status.write_text(f"Name:\tpython3\nCapPrm:\t{ALL}\nCapEff:\t{mask:0>16}\nCapBnd:\t{ALL}\n")
    wanted = (*privileges.FOR_BPF, privileges.FOR_ADDRESSES)
    assert privileges.lacking(wanted) == lacking


def test_the_kernel_has_these_bits() -> None:
    # The test's own process has them if root runs it, and the kernel's last capability is not before theirs.
    assert max(privileges.BITS.values()) <= int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert privileges.held() <= privileges.BITS.keys()


def test_doctor_names_what_is_missing(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    status.write_text(f"CapEff:\t{TWO:0>16}\n")
    rows = {one.name: one for one in doctor._privileges()}
    assert {name: row.state for name, row in rows.items()} == {
        "root": "limited", "programs": "ok", "tracefs": "limited", "addresses": "limited",
    }  # fmt: skip
    assert rows["programs"].text == "CAP_BPF and CAP_PERFMON held"
    assert rows["addresses"].text.startswith("without CAP_SYSLOG: ")
    assert all(bool(row.remedy) == (row.state != "ok") for row in rows.values())


def test_doctor_is_short_for_root(status: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    status.write_text(f"CapEff:\t{ALL:0>16}\n")
    assert [one.name for one in doctor._privileges()] == ["root"]
    # Root in a container may lack them.
    status.write_text(f"CapEff:\t{ADMIN:0>16}\n")
    assert [one.name for one in doctor._privileges()] == ["root", "tracefs", "addresses"]
