"""Outputs are whole or not there, are never written through a link, and never replace what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.outputs import create, refuse_inputs, replace_text, replacing


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    replace_text(path, "one")
    with pytest.raises(FileNotFoundError), replacing(path) as new:
        new.with_name("missing").read_text()
    assert path.read_text() == "one"
    replace_text(path, "two")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("two", [path])


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    path = tmp_path / "out"
    path.symlink_to(other)
    replace_text(path, "new")
    assert (other.read_text(), path.read_text(), path.is_symlink()) == ("mine", "new", False)


@pytest.mark.parametrize("target", ["nowhere", "other"])
def test_a_new_file_is_not_created_through_a_link(tmp_path: Path, target: str) -> None:
    (tmp_path / "other").write_text("mine")
    path = tmp_path / "out"
    path.symlink_to(tmp_path / target)
    with pytest.raises(FileExistsError):
        create(path)
    assert not (tmp_path / "nowhere").exists()


def test_an_output_that_is_an_input(tmp_path: Path) -> None:
    trace, other = tmp_path / "trace", tmp_path / "other"
    trace.write_text("x")
    other.hardlink_to(trace)
    for name in (trace, other, tmp_path / "." / "trace"):
        with pytest.raises(TraceError, match="is also read"):
            refuse_inputs(name, [tmp_path / "missing", trace])
    refuse_inputs(tmp_path / "new", [trace])
