"""A slice of `make ends`: real recordings that are killed, or whose disk fills up."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.bpf.system import require_bpf
from soak import ends

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.mark.parametrize("what", ["kill", "disk"])
def test_nothing_is_lost_and_nothing_is_left(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    require_bpf()
    code = ends.campaign(what, 6, tmp_path)
    assert code == 0, capfd.readouterr().out
    rows = list(ends._kept(tmp_path, what))
    assert len(rows) == 6
    assert {row["kind"] for row in rows} == {"bpf", "bpf --events", "perf"}
    assert any(row["begun"] for row in rows)


def test_what_a_killed_recorder_leaves_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").touch()
    assert ends._after_a_start(run) == []
    (run / "bpf-left").mkdir()
    assert ends._after_a_start(run) == ["left in /run: bpf-left"]
