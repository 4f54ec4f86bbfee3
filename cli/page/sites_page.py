"""The page of the sites of one image, or of an old and a new one, from their JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from xtrace.cli.page.figure import Column, Fact, Page, PageTable, Row, Said
from xtrace.cli.page.figures import sites
from xtrace.cli.page.words import name_text


def sites_page(found: Mapping[str, Any], old_sites: Sequence[Mapping[str, Any]]) -> Page:
    """Return the page.

    Args:
        found: the JSON; with ``old_image`` and ``changes`` if two images are compared.
        old_sites: of the old image.
    """
    shown = found["sites"]
    is_pair = "old_image" in found
    images = [("after", shown)] if is_pair else [("", shown)]
    if is_pair:
        images.insert(0, ("before", old_sites))
    looks = Counter(sites.look(site) for site in shown)
    facts = [Fact("sites", f"{len(shown):,}")]
    facts += [
        Fact(said, f"{looks[name]:,}", "", _share(looks[name], len(shown)))
        for name, said in (
            ("removable", "with a removable fence"),
            ("replaceable", "with a replaceable locked access"),
            ("undecided", "undecided"),
            ("keep", "with a fence to keep"),
        )
    ]
    hazards = sum(bool(site["hazards"]) for site in shown)
    facts.append(Fact("with a hazard", f"{hazards:,}", "", _share(hazards, len(shown))))
    image = found["image"]
    guest = image["facts"]["guest_os"]
    if guest:
        facts.append(Fact("guest", name_text(guest), "", name_text(image["facts"]["guest_version"] or "")))
    lists = [("sites", "All sites", sites.site_table(shown, "sites", "Sites with fences and verdicts"))]
    if is_pair:
        lists.insert(0, ("changes", "What changed", _changes(found["changes"])))
    figure = sites.site_map(images)
    subject = name_text(image["path"], 160)
    if is_pair:
        subject = f"{name_text(found['old_image']['path'], 80)} against {name_text(image['path'], 80)}"
    return Page(
        "xtrace sites",
        subject,
        facts,
        [Said("missing", name_text(text, 300)) for text in image["damage"]],
        [figure] if figure else [],
        _sentence(looks, is_pair, found),
        lists,
        "What could not be read",
    )


def _sentence(looks: Counter[str], is_pair: bool, found: Mapping[str, Any]) -> str:
    if is_pair:
        changed = found["changes"]
        return (
            f"{changed['fences_removed_count']} fences are gone and {changed['fences_added_count']} are new; "
            f"{changed['gone_count']} sites are gone, {changed['added_count']} are new, "
            f"{changed['changed_count']} changed, {changed['same_count']} are the same."
        )
    if looks["removable"]:
        return f"Fences at {looks['removable']} sites can be removed without losing an upcall."
    return ""


def _share(count: int, total: int) -> str:
    return f"of {total:,}" if count else ""


def _changes(changed: Mapping[str, Any]) -> PageTable:
    rows = []
    for key, label in (("gone", "gone"), ("added", "new")):
        rows += [_row(label, site, "") for site in changed[key]]
    rows += [_row("changed", each["new"], "; ".join(each["differences"])) for each in changed["changed"]]
    return PageTable(
        [Column("", name, is_text=True) for name in ("change", "address", "function", "kind", "differences")],
        rows[: sites.MOST_ROWS],
        "Sites that are gone, new or changed",
        left_out=max(len(rows) - sites.MOST_ROWS, 0),
    )


def _row(label: str, site: Mapping[str, Any], differences: str) -> Row:
    return Row(
        [
            label,
            f"{site['address']:#x}",
            name_text(f"{site['symbol']}+{site['offset']:#x}" if site["symbol"] else "", 64),
            name_text(site["kind"].replace("_", " ")),
            name_text(differences, 200),
        ]
    )
