"""The file of a trial, and the sentence that answers the question."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from builders.made_trials import group, result
from xtrace.analysis.trial.result import Interval, json_object, read, sentence, text_of, warnings
from xtrace.probes.errors import TraceError


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = result()
    (tmp_path / "t.json").write_text(text_of(made))
    assert read(tmp_path / "t.json") == made


def test_a_file_without_pauses_is_of_an_earlier_version(tmp_path: Path) -> None:
    content = json_object(result(pause_count=7, pause_median_s=0.25))
    (tmp_path / "t.json").write_text(json.dumps(content))
    assert read(tmp_path / "t.json").pause_count == 7
    del content["pause_count"], content["pause_median_s"]
    (tmp_path / "t.json").write_text(json.dumps(content))
    assert read(tmp_path / "t.json") == result()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mark": "modelled"}, "mark"),
        ({"schema_version": 99}, "version"),
        ({"groups": []}, "groups"),
        ({"groups": [1]}, "not a result"),
        ({"unit_count": "7"}, "unit_count"),
        ({"unit_ns": {"value": 1, "low": 2, "high": 3}}, "interval"),
        ({"tsc_hz": float("nan")}, "tsc_hz"),
        ({"unit_count": -1}, "unit_count is below 0"),
        ({"slice_s": -0.1}, "slice_s is below 0"),
        ({"block_count": 1 << 64}, "block_count is not a number, or too great"),
        ({"pause_median_s": 10**400}, "too great"),
        ({"host": [1]}, "host"),
        ({"notes": "x"}, "notes"),
    ],
)
def test_a_file_of_anything_else_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.json").write_text(json.dumps({**json_object(result()), **change}))
    with pytest.raises(TraceError, match=message) as caught:
        read(tmp_path / "t.json")
    assert "\n" not in str(caught.value)


def _texts(found: Any) -> Iterator[str]:
    if isinstance(found, str):
        yield found
    elif isinstance(found, dict):
        for key, value in found.items():
            yield from _texts([key, value])
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _texts(value)


def test_no_text_of_a_file_is_obeyed_by_a_terminal(tmp_path: Path) -> None:
    def marked(found: Any, name: str = "") -> Any:
        if isinstance(found, dict):
            return {key: marked(value, key) for key, value in found.items()}
        if isinstance(found, list):
            return [marked(value, name) for value in found]
        has_meaning = name in ("mark", "original", "removed") or found in ("all", "A/A")
        return found if has_meaning or not isinstance(found, str) else f"{found}\x1b[2J\x9b"

    (tmp_path / "t.json").write_text(json.dumps(marked(json.loads(text_of(result())))))
    made = read(tmp_path / "t.json")
    assert "\\x1b[2J" in sentence(made)
    assert [text for text in _texts(asdict(made)) if not text.isprintable()] == []


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, '"x"', "null"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(TraceError, match="not a result of xtrace trial"):
        read(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (Interval(0.0031, 0.0027, 0.0035), "saves 0.31 % (0.27 to 0.35) of this process's running time"),
        (Interval(0.5377, 0.5355, 0.5399), "saves 53.8 % (53.5 to 54.0) of this process's running time"),
        (Interval(-0.02, -0.03, -0.01), "takes 2.0 % (1.0 to 3.0) more of this process's running time"),
        (
            Interval(0.0002, -0.0006, 0.001),
            "changes no measurable part of this process's running time at this load: less than 0.10 % "
            "(-0.06 to 0.10)",
        ),
    ],
)
def test_the_sentence_answers_the_question(saved: Interval, expected: str) -> None:
    made = result(groups=(group("A/A", "again"), group("all", "all", saved)))
    assert expected in sentence(made)
    assert sentence(made).startswith("Turning the 12 removable fences into no-ops ")


def test_the_sentence_says_how_many_fences_were_left_out() -> None:
    made = replace(result(), fence_count=15)
    assert "Turning 12 of the 15 removable fences into no-ops" in sentence(made)
    assert "Turning the removable fence into no-ops" in sentence(replace(result(), fence_count=1))


def test_what_speaks_against_a_figure_is_said() -> None:
    assert not warnings(result())
    (unseen,) = warnings(result(carried=Interval(0.0, -1.0, 1.0)))
    assert "too few slices could be read in their middle" in unseen
    (carried,) = warnings(result(carried=Interval(0.02, 0.01, 0.03)))
    assert "the second half of the slices saves 2 % more than the first" in carried
    again = group("A/A", "again", Interval(0.02, 0.01, 0.03))
    (differing,) = warnings(result(groups=(again, group())))
    assert differing.startswith("A/A: slices with the same bytes differ")
