"""Query Xen's trace buffers in a child process."""

from __future__ import annotations

import os

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.host import trace_buffers


@pytest.mark.parametrize(
    ("answer", "sized"), [("200", True), ("0", False), ("-9", True), ("38", None), ("201", None)]
)
def test_the_child_reports_whether_buffers_are_sized(
    answer: str, sized: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask() -> int:
        if int(answer) < 0:
            os.kill(os.getpid(), -int(answer))
        return int(answer)

    monkeypatch.setattr(trace_buffers, "_load", lambda: None)
    monkeypatch.setattr(trace_buffers, "_ask_size", ask)
    if sized is None:
        with pytest.raises(TraceError, match=r"no trace buffer: Function not implemented|cannot query"):
            trace_buffers.is_sized()
    else:
        assert trace_buffers.is_sized() is sized


def test_what_the_library_prints_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def ask() -> int:
        os.write(2, b"xencall: error: Could not obtain handle on privileged command interface\n")
        return 201

    monkeypatch.setattr(trace_buffers, "_load", lambda: None)
    monkeypatch.setattr(trace_buffers, "_ask_size", ask)
    with pytest.raises(TraceError, match="run as root in dom0"):
        trace_buffers.is_sized()
    assert capfd.readouterr() == ("", "")
