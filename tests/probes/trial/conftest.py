"""A worker that is compiled once per module, and targets on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.workers import built


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("worker"))


@pytest.fixture(autouse=True)
def own_journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the journals of this test apart from those of others."""
    folder = tmp_path / "run"
    monkeypatch.setenv("XTRACE_RUN_DIR", str(folder))
    return folder
