"""Names of trace classes, as masks."""

from __future__ import annotations

import pytest

from xtrace.probes.recording.backends.masks import ALL, event_mask


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


@pytest.mark.parametrize("text", ["", "sched+", "scheduler", "12", "0x100000000", "0x1fffffff"])
def test_words_that_are_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="none of"):
        event_mask(text)
