"""Pages in Chromium: no request, no message, no finding of axe-core, and no page wider than its window."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from builders import made_pages
from builders.big_host import big_report
from builders.hostile import hostile_report
from builders.made_pages import IMAGE, OTHER_IMAGE, SAMPLES
from peer.chromium_run import Look, seen

#: A phone, a window and a wide screen; in the dark; on paper.
LOOKS = (Look(400), Look(1000, "dark"), Look(1600), Look(1000, "light", "print"))
#: Where axe-core looks, too; it takes a second or two.
WITH_AXE = {
    "bundled": Look(1000, "dark", axe=True),
    "cost": Look(400, axe=True),
    "diff": Look(1000, axe=True),
    "sites": Look(1600, "dark", axe=True),
    "hostile": Look(400, "dark", axe=True),
}
#: Where the timeline is zoomed and scrolled.
ZOOMED = {"bundled": (Look(1000, zoom=True),)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("pages")
    texts = {
        "bundled": made_pages.report(SAMPLES / "xen417-pv-all.bin.xz").text,
        "lost": made_pages.report(SAMPLES / "xen417-pv-lost.bin.xz").text,
        "cost": made_pages.cost().text,
        "diff": made_pages.diff().text,
        "sites": made_pages.sites(IMAGE, OTHER_IMAGE).text,
        "hostile": hostile_report(),
    }
    pages: dict[Path, tuple[Look, ...]] = {}
    for name, text in texts.items():
        path = folder / f"{name}.html"
        path.write_text(text, encoding="utf-8")
        pages[path] = (*LOOKS, *([WITH_AXE[name]] if name in WITH_AXE else []), *ZOOMED.get(name, ()))
    path = folder / "big.html"
    path.write_text(big_report(), encoding="utf-8")
    pages[path] = LOOKS
    return seen(pages, folder)


def test_no_request_leaves_the_page(found: list[dict[str, Any]]) -> None:
    assert len(found) == 7 * len(LOOKS) + len(WITH_AXE) + len(ZOOMED)
    for look in found:
        assert [each for each in look["requests"] if not each.startswith("data:")] == [look["url"]]


def test_the_browser_has_nothing_to_say(found: list[dict[str, Any]]) -> None:
    """It would say what the page's policy forbids: a script, a style, a font, an image."""
    assert [look["said"] for look in found if look["said"]] == []
    assert {look["scripts"] for look in found} == {0}


def test_axe_finds_nothing(found: list[dict[str, Any]]) -> None:
    looked = [look for look in found if look["axe"]]
    assert len(looked) == len(WITH_AXE)
    assert [(look["url"], look["width"], look["violations"]) for look in looked if look["violations"]] == []
    assert min(look["elements"] for look in looked) > 200


def test_the_scheme_is_the_readers(found: list[dict[str, Any]]) -> None:
    grounds = {(look["scheme"], look["media"]): look["ground"] for look in found}
    assert grounds["light", "screen"] == grounds["light", "print"] == "rgb(255, 255, 255)"
    assert max(map(int, re.findall(r"\d+", grounds["dark", "screen"]))) < 64


def test_no_page_is_wider_than_its_window(found: list[dict[str, Any]]) -> None:
    for look in found:
        assert look["width_found"] <= look["width"], look["url"]


def test_the_timeline_is_zoomed_by_keys_and_mouse(found: list[dict[str, Any]]) -> None:
    (zoom,) = (look["zoom"] for look in found if isinstance(look["zoom"], dict))
    assert (zoom["whole"]["checked"], zoom["whole"]["times"]) == ("zoom-1", 1)
    assert (zoom["by_keys"]["checked"], zoom["by_mouse"]["checked"]) == ("zoom-16", "zoom-4")
    assert zoom["by_keys"]["times"] == pytest.approx(16, rel=0.01)
    assert zoom["by_mouse"]["times"] == pytest.approx(4, rel=0.01)
    assert zoom["scrolled"]["left"] > 0


def test_a_findings_number_leads_to_its_moment_in_the_zoomed_timeline(found: list[dict[str, Any]]) -> None:
    (zoom,) = (look["zoom"] for look in found if isinstance(look["zoom"], dict))
    moment = zoom["moment"]
    assert moment["left"] < moment["x"] < moment["right"]
    assert 0 <= moment["top"] < moment["height"]
