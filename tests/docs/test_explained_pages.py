"""docs/explained shows all that `xtrace sites --explain` prints of its sites today."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from builders.explained import DEBIAN, PAGES, debian, guests, pages
from xtrace.symbols.sites.model import Kind

#: The kernel's package may have to be fetched first.
FETCHED = pytest.mark.timeout(550)


def sections(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the sections of all pages, and the lines of the contents, by page and title."""
    found = {}
    for name, text in texts.items():
        parts = text.split("\n## ") if name != "README.md" else text.splitlines()
        found.update({f"{name}: {part.splitlines()[0]}": part for part in parts if part})
    return found


@FETCHED
def test_the_pages_show_what_the_command_prints(tmp_path: Path) -> None:
    kernel = debian()
    kept = sections({path.name: path.read_text() for path in PAGES.glob("*.md")})
    today = sections(pages([kernel, *guests(tmp_path)]))
    (version,) = {found[0] for title in kept for found in [re.findall(r"vmlinuz-[^ :,]+", title)] if found}
    if version not in kernel.name:
        # Debian has a newer one: the rest is what it was.
        kept, today = (
            {title: text for title, text in each.items() if DEBIAN not in title} for each in (kept, today)
        )
    assert kept == today, "run: PYTHONPATH=tests python -m builders.explained"


def test_each_kind_has_a_page_with_sites_of_a_guest_and_of_the_kernel() -> None:
    for kind in Kind:
        text = (PAGES / f"{kind.replace(' ', '-')}.md").read_text()
        assert len(re.findall(r"^## ", text, re.MULTILINE)) == 3, kind
    whole = "".join(path.read_text() for path in PAGES.glob("*.md"))
    assert whole.count("No upcall is lost") > 3
    assert whole.count("Counterexample") > 3
    assert whole.count(f"## {DEBIAN}") > len(Kind) / 2
