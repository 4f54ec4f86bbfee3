"""The file beside a trace with facts that the trace does not contain."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.errors import TraceError


def test_no_sidecar(tmp_path: Path) -> None:
    assert sidecar_of(tmp_path / "a.bin") is None


def test_a_sidecar_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin.json").write_text('{"tsc_hz": 2596180000, "xen_version": "4.17", "else": [1]}')
    found = sidecar_of(tmp_path / "a.bin")
    assert found is not None
    assert (found.tsc_hz, found.xen_version, found.emulated) == (2596180000.0, "4.17", False)


@pytest.mark.parametrize("hz", [1_000_000, 24_000_000, 20_000_000_000])
def test_every_rate_that_a_tsc_can_have(hz: int, tmp_path: Path) -> None:
    (tmp_path / "a.bin.json").write_text(f'{{"tsc_hz": {hz}}}')
    found = sidecar_of(tmp_path / "a.bin")
    assert found is not None
    assert found.tsc_hz == hz


@pytest.mark.parametrize(("timing", "emulated"), [("emulated", True), ("hardware", False)])
def test_an_emulated_host(timing: str, emulated: bool, tmp_path: Path) -> None:
    (tmp_path / "a.bin.json").write_text(f'{{"timing": "{timing}"}}')
    found = sidecar_of(tmp_path / "a.bin")
    assert found is not None
    assert found.emulated is emulated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"tsc_hz": "2.6 GHz"}',
        '{"tsc_hz": 2.6}',
        '{"tsc_hz": 999999}',
        '{"tsc_hz": 20000000001}',
        '{"tsc_hz": NaN}',
        '{"xen_version": 4.17}',
        '{"timing": "guessed"}',
        '{"timing": true}',
        "[" * 100_000,
        " " * (1 << 20) + "{}",
    ],
)
def test_an_invalid_sidecar_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.bin.json").write_text(text)
    with pytest.raises(TraceError, match=r"a\.bin\.json"):
        sidecar_of(tmp_path / "a.bin")
