"""Fixtures for the comparisons with peer tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.samples import SAMPLES, UNPACK, decoded_files
from peer.xenalyze import require


@pytest.fixture(scope="session")
def xenalyze() -> None:
    """Skip with a warning, or fail under XTRACE_REQUIRE_PEERS=1, if xenalyze is missing."""
    require()


@pytest.fixture(
    scope="session",
    params=decoded_files() or [SAMPLES],
    ids=lambda path: path.name.split(".")[0],
)
def trace(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Yield one real trace after the other, uncompressed."""
    packed: Path = request.param
    if packed == SAMPLES:
        pytest.skip(f"no traces in {SAMPLES}")
    plain = tmp_path_factory.mktemp("sample") / f"{packed.name.split('.')[0]}.bin"
    plain.write_bytes(UNPACK[packed.suffix](packed.read_bytes()))
    return plain
