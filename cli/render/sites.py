"""The sites of an image, and what a patch changed, on a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from xtrace.cli.terminal.style import Put, width
from xtrace.cli.terminal.text import columns_of, padded, shortened, wrapped
from xtrace.probes.words import count_of
from xtrace.symbols.errors import shown
from xtrace.symbols.listing.compare import Comparison, fence_words, key_words
from xtrace.symbols.listing.export import COLUMNS, Tally, cells, is_fenced, tallies
from xtrace.symbols.sites.model import Fence, Kind, Site, SiteTable, Verdict, where

_LABEL = 9
_GAP = "  "
#: Verdicts that are printed on a line of their own.
_SHOWN_NOTES = ("GUEST_OS", "GUEST_VERSION")
_LEAST_WHERE = 24
#: Sites of a kind without a fence or a remark that are listed.
_PLAIN = 4
#: What the verdicts mean, under the table that counts them.
_MEANINGS = {
    Verdict.REMOVABLE: "no upcall is lost without it",
    Verdict.REPLACEABLE: "a byte store and a test would do",
    Verdict.KEEP: "needed, or the rule does not cover it",
    Verdict.UNDECIDED: "the image alone does not show it",
}
_ORDER = {
    verdict: place
    for place, verdict in enumerate(
        (Verdict.REMOVABLE, Verdict.REPLACEABLE, Verdict.UNDECIDED, Verdict.KEEP, Verdict.NO_FENCE)
    )
}


def print_head(put: Put, table: SiteTable) -> None:
    """Print which image it is and what was found in it; what makes that uncertain follows at once."""
    _print_path(put, table, "image")
    found = tallies(table.sites)
    _print_facts(
        put,
        ("guest", [_guest(table)]),
        ("fields", () if table.layout else (_NO_FIELDS,)),
        ("unread", table.damage),
    )
    for line in _labelled("found", [_found(found)]):
        put(line, bold=True)


def print_details(put: Put, table: SiteTable) -> None:
    """Print the number of sites of each kind, and what is known about the image, from where."""
    if table.sites:
        put("")
        _print_kinds(put, tallies(table.sites))
    put("")
    _print_facts(put, ("build-id", [table.build_id or "none"]), *_fact_lines(table), ("fields", table.layout))


def print_image(put: Put, table: SiteTable, label: str) -> None:
    """Print which image it is, without what its Xen notes say."""
    _print_path(put, table, label)
    _print_facts(
        put,
        ("build-id", [table.build_id or "none"]),
        ("fields", table.layout or (_NO_FIELDS,)),
        ("unread", table.damage),
    )


def print_sites(put: Put, sites: Iterable[Site]) -> None:
    """Print a table for each kind, sites with fences first; debug reads are left out.

    Of sites without a fence or a remark, the first few are listed.
    """
    by_kind = _by_kind(site for site in sites if site.kind is not Kind.DEBUG_READ)
    for kind, found in by_kind.items():
        put("")
        fenced = sum(map(is_fenced, found))
        put(f"{kind}: {count_of(len(found), 'site')}, {fenced or 'none'} with a fence", bold=True)
        notable = [site for site in found if is_fenced(site) or _said(site)]
        plain = sorted((site for site in found if site not in notable), key=_row_order)
        _print_rows(put, [*notable, *plain[:_PLAIN]])
        if len(plain) > _PLAIN:
            put(f"  {len(plain) - _PLAIN} more without a fence: --wide", dim=True)


def print_comparison(put: Put, found: Comparison) -> None:
    """Print totals, then the sites that are gone, new and changed."""
    put("")
    text = (
        f"fences removed {len(found.fences_removed)}, added {len(found.fences_added)}; sites gone "
        f"{len(found.gone)}, new {len(found.added)}, changed {len(found.changed)}, same {found.same_count}"
    )
    for line in _labelled("change", [text]):
        put(line, bold=True)
    for label, keys in (("removed", found.fences_removed), ("added", found.fences_added)):
        words = Counter(key_words(key) for key in keys)
        for line in _labelled(label, [", ".join(f"{count} {text}" for text, count in words.most_common())]):
            put(line)
    for title, image, sites in (("gone", "old", found.gone), ("new", "new", found.added)):
        for kind, rows in _by_kind(sites).items():
            put("")
            put(f"{title}, {kind}: {count_of(len(rows), 'site')} of the {image} image", bold=True)
            _print_rows(put, rows)
    if found.changed:
        put("")
        put(f"changed: {count_of(len(found.changed), 'site')}", bold=True)
    for change in found.changed:
        lead = f"{change.new.address:x}{_GAP}{change.new.kind}{_GAP}"
        put(lead + shortened(where(change.new), width() - len(lead)))
        for difference in change.differences:
            _put_wrapped(put, difference, "    ", "      ")


def print_wide(put: Put, sites: Iterable[Site]) -> None:
    """Print one line per site with all columns in full width; an empty cell is a dash."""
    found = [cells(site) for site in sites]
    rows = [list(COLUMNS), *([row[name] or "-" for name in COLUMNS] for row in found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    for number, row in enumerate(rows):
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        put(_GAP.join(padded).rstrip(), bold=number == 0)


def print_site(put: Put, site: Site) -> None:
    """Print everything known about a site, one fact per line."""
    found = cells(site)
    put(f"{found['address']}  {where(site)}", bold=True)
    place = f"{found['file']}:{found['line']}" if found["file"] else ""
    inline = (
        [f"in {shown(f.function)} {shown(f.file)}:{f.line}" for f in site.place.inline]
        if place and site.place
        else []
    )
    source = f"{site.origin}; {site.cpu}" if site.origin else str(site.cpu)
    for name, texts in (
        ("kind", [site.kind]),
        ("also", site.aliases),
        ("source", [place, *inline]),
        ("code", [site.text]),
        ("access", [f"{count_of(site.width_bytes, 'byte')}, in {site.section}" if site.section else ""]),
        ("pointer", [source]),
        ("fence", [_fence_line(fence) for fence in site.fences]),
        ("tests", [f"{found['pending_tests']} on {site.pending_paths}" if site.pending_tests else ""]),
        ("calls", [found["callbacks"]]),
        ("exit", [site.exit]),
        ("reread", [f"which CPU, at {found['reread']}, before the test" if site.reread else ""]),
        ("patched", [f"by {site.patched}" if site.patched else ""]),
        ("masked", [found["masked"]]),
        ("verdict", [f"{site.verdict}: {site.reason}" if site.reason else site.verdict]),
        ("hazard", [f"{hazard.name}: {hazard.reason}" for hazard in site.hazards]),
    ):
        for line in _labelled(name, texts):
            put(line)


def _fact_lines(table: SiteTable) -> Iterator[tuple[str, Sequence[str]]]:
    facts = table.facts
    notes = [f"{note.name}={note.value}" for note in facts.notes if note.name not in _SHOWN_NOTES]
    yield "notes", [" ".join(notes), " ".join(f"{key}={value}" for key, value in facts.legacy)]
    page = ""
    if facts.hypercall_page is not None:
        page = f"hypercall page {facts.hypercall_page:#x} by {facts.hypercall_page_source}; "
    calls = ", ".join(f"{call.kind} {call.address:#x} by {call.source}" for call in facts.callbacks)
    yield "entries", [f"{page}callbacks: {calls or 'none found'}"]
    patched = sum(bool(site.patched) for site in table.sites)
    tables = ", ".join(f"{known.name} ({known.count:,})" for known in facts.patching.tables)
    yield (
        "patching",
        [
            f"{tables} may change the code at run time; {patched} of {count_of(len(table.sites), 'site')}"
            if tables
            else "no table shows that the kernel patches its code",
            *facts.patching.unknown,
        ],
    )


_NO_FIELDS = "not found: nothing in the image shows where vcpu_info is"


def _guest(table: SiteTable) -> str:
    return f"{table.facts.guest_os} {table.facts.guest_version}".strip() or "no Xen note says what it is"


def _print_path(put: Put, table: SiteTable, label: str) -> None:
    for line in _labelled(label, [table.path]):
        put(line, bold=True)


def _print_facts(put: Put, *facts: tuple[str, Iterable[str]]) -> None:
    for label, texts in facts:
        for line in _labelled(label, texts):
            put(line)


def _found(found: dict[Kind, Tally]) -> str:
    """Return the answer in a sentence: how many sites, with a hazard, with a fence, by verdict."""
    if not found:
        return "no site"
    count, fenced, hazards = (
        sum(getattr(tally, name) for tally in found.values()) for name in ("sites", "fenced", "hazards")
    )
    said = [
        f"{number} {verdict}"
        for verdict in _ORDER
        if verdict is not Verdict.NO_FENCE
        and (number := sum(tally.verdicts.get(verdict, 0) for tally in found.values()))
    ]
    of = f": {', '.join(said)}" if said else ""
    return (
        f"{count_of(count, 'site')}, {hazards or 'none'} with a hazard; {fenced or 'none'} with a fence{of}"
    )


def _print_kinds(put: Put, found: dict[Kind, Tally]) -> None:
    # Most kernels have no locked access to the mask: then 80 columns hold the rest better.
    rare = not any(Verdict.REPLACEABLE in tally.verdicts for tally in found.values())
    order = [verdict for verdict in _ORDER if not (rare and verdict is Verdict.REPLACEABLE)]
    lines = [["kind", "sites", "fenced", *map(str, order), "hazards"]]
    for kind, tally in found.items():
        counts = (tally.sites, tally.fenced, *(tally.verdicts.get(name, 0) for name in order), tally.hazards)
        lines.append([str(kind), *(f"{count:,}" for count in counts)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        counted = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
        put(_GAP.join((line[0].ljust(widths[0]), *counted)), bold=number == 0)
        if number == 0:
            put("-" * (sum(widths) + len(_GAP) * (len(widths) - 1)), dim=True)
    meanings = [f"{verdict}: {_MEANINGS[verdict]}" for verdict in order if verdict in _MEANINGS]
    for text in _wrapped(f"({'; '.join(meanings)}; --explain SITE shows why)", "", ""):
        put(text, dim=True)


def _print_rows(put: Put, sites: Sequence[Site]) -> None:
    """Print sites of one kind, each group followed by the remarks that its sites share."""
    rows = sorted(sites, key=_row_order)
    address_width = max(len(f"{site.address:x}") for site in rows)
    verdict_width = max(len(known) for site in rows for known in _verdicts(site))
    where_width, fence_width = _widths(rows, width() - address_width - verdict_width - 3 * len(_GAP))
    indent = " " * (address_width + where_width + 2 * len(_GAP))
    for said, group in groupby(rows, key=_said):
        for site in group:
            fences = [shortened(_fence_text(fence), fence_width) for fence in site.fences]
            line = (
                f"{site.address:0{address_width}x}",
                padded(shortened(where(site), where_width), where_width, left=True),
                padded(fences[0] if fences else "", fence_width, left=True),
                site.verdict,
            )
            put(_GAP.join(cell for cell in line if cell))
            for text, fence in list(zip(fences, site.fences, strict=True))[1:]:
                put(f"{indent}{padded(text, fence_width, left=True)}{_GAP}{fence.verdict}")
        for text in said:
            _put_wrapped(put, text, "  ", "    ")


def _verdicts(site: Site) -> list[Verdict]:
    return [site.verdict, *(fence.verdict for fence in site.fences)]


def _widths(rows: Sequence[Site], room: int) -> tuple[int, int]:
    """Return the widths of the symbol and fence columns, which share ``room`` columns."""
    where_width = max(columns_of(where(site)) for site in rows)
    fence_width = max((columns_of(_fence_text(fence)) for site in rows for fence in site.fences), default=0)
    if where_width + fence_width > room:
        fence_width = min(fence_width, max(room - where_width, room - _LEAST_WHERE))
        where_width = min(where_width, room - fence_width)
    return where_width, fence_width


def _row_order(site: Site) -> tuple[object, ...]:
    said = _said(site)
    # Sites without remarks come last, or the remarks below the next group would seem to apply to them.
    return not is_fenced(site), _ORDER[site.verdict], not said, not site.hazards, said, site.address


def _said(site: Site) -> tuple[str, ...]:
    """Return the remarks below a site; the absence of a fence is not one."""
    said = [f"hazard {hazard.name}: {hazard.reason}" for hazard in site.hazards]
    if site.exit:
        said.append(f"exit: {site.exit}")
    if site.patched:
        said.append(f"patched: {site.patched} lets the kernel change these bytes at run time")
    verdicts = [(site.verdict, site.reason), *((fence.verdict, fence.reason) for fence in site.fences)]
    for verdict, reason in dict.fromkeys(verdicts):
        if verdict is not Verdict.NO_FENCE and reason:
            said.append(f"{verdict}: {reason}")
    return tuple(said)


def _by_kind(sites: Iterable[Site]) -> dict[Kind, list[Site]]:
    found: dict[Kind, list[Site]] = {}
    for site in sites:
        found.setdefault(site.kind, []).append(site)
    # Those with fences first: they are what the user asks about.
    order = sorted(found, key=lambda kind: (not any(map(is_fenced, found[kind])), list(Kind).index(kind)))
    return {kind: found[kind] for kind in order}


def _fence_text(fence: Fence) -> str:
    return shown(fence_words(fence), 4096)


def _fence_line(fence: Fence) -> str:
    return (
        f"{fence_words(fence)} at {fence.address:#x}, {fence.position} the access on {fence.paths}: "
        f"{fence.verdict}, {fence.reason}"
    )


def _labelled(label: str, texts: Iterable[str]) -> Iterator[str]:
    """Yield lines with a label and, next to it, each non-empty text, wrapped."""
    for text in filter(None, texts):
        yield from _wrapped(text, label.ljust(_LABEL), " " * _LABEL)
        label = ""


def _put_wrapped(put: Put, text: str, lead: str, indent: str) -> None:
    for line in _wrapped(text, lead, indent):
        put(line)


def _wrapped(text: str, lead: str, indent: str) -> list[str]:
    text = shown(text, 4096)
    if not text.isascii():
        lines = wrapped(text, width() - max(len(lead), len(indent)))
        return [f"{indent if number else lead}{line}" for number, line in enumerate(lines)]
    return textwrap.wrap(
        text,
        width(),
        initial_indent=lead,
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
