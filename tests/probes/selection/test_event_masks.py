"""Names of trace classes, as masks."""

from __future__ import annotations

import pytest

from xtrace.probes.selection.event_masks import ALL, event_mask, event_masks, passes


@pytest.mark.parametrize(
    ("text", "mask"),
    [
        ("all", ALL),
        ("sched", 0x2F000),
        ("gen+SCHED", 0x3F000),
        ("hvm,0x28000", 0xAF000),
        ("hw_irq", 0x802000),
        ("0x21000", 0x21000),
    ],
)
def test_masks(text: str, mask: int) -> None:
    assert event_mask(text) == mask


@pytest.mark.parametrize("text", ["", "sched+", "scheduler", "0x100000000", "0x1fffffff"])
def test_words_that_are_not_masks(text: str) -> None:
    with pytest.raises(ValueError, match="none of"):
        event_mask(text)


@pytest.mark.parametrize("text", ["12", "0x20000", "0xf000", "sched,0"])
def test_masks_that_select_no_event(text: str) -> None:
    with pytest.raises(ValueError, match="selects no event"):
        event_mask(text)


def test_each_word_selects_apart() -> None:
    assert event_masks("hw_irq+sched_min") == [0x802000, 0x21000]
    # As one mask they let more pass than either: a sub-class bit of one, a class bit of the other.
    assert event_mask("hw_irq+sched_min") == 0x823000
    assert [passes(mask, 0x22001) for mask in (0x823000, 0x802000, 0x21000)] == [True, False, False]
