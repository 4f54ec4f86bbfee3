"""Compare the sites of two images of a kernel: which are gone, new and changed.

Addresses move with every build, so a site is identified by its symbol, its kind and its order among the
symbol's sites of that kind.  A symbol with a different name in the other image is found by its aliases,
and by its name without the suffixes that compilers give to copies (``.isra.0``, ``.part.1``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from xtrace.symbols.sites.model import Fence, How, Kind, Site, SiteTable

#: Aligning two lists takes time in the product of their lengths, and images are untrusted.
_MOST_ALIGNED = 100

#: What compilers add to the names of copies and parts: GCC, and LLVM with LTO, CFI and unique names.
_COPY = re.compile(
    r"(?<=.)(\.(isra|constprop|part|cold|hot|unlikely|clone|localalias|lto_priv|llvm|cfi|cfi_jt|__uniq)"
    r"(\.\d+)*|\.\d+)+$"
)

_Groups = dict[tuple[str, Kind], list[Site]]


@dataclass(frozen=True, slots=True)
class Change:
    """A site that is in both images but differs.

    Attributes:
        differences: in words, at least one.
    """

    old: Site
    new: Site
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What became of an image's sites in another image; debug reads are left out.

    Attributes:
        gone: sites of the old image only.
        added: sites of the new image only.
        changed: sites that differ, in the order of the new image.
        same_count: sites that are in both and do the same.
        fences_removed, fences_added: (mnemonic, how, via) of each fence, including those of sites
            gone and new; how is inline or callee.
    """

    gone: tuple[Site, ...]
    added: tuple[Site, ...]
    changed: tuple[Change, ...]
    same_count: int
    fences_removed: tuple[tuple[str, str, str], ...]
    fences_added: tuple[tuple[str, str, str], ...]


@lru_cache(1 << 16)
def base_name(symbol: str) -> str:
    """Return a symbol without the suffixes that compilers give to copies and parts of a function."""
    return _COPY.sub("", symbol)


def compare(old: SiteTable, new: SiteTable) -> Comparison:
    """Return what became of the sites of ``old`` in ``new``."""
    before, after = _grouped(old.sites), _grouped(new.sites)
    symbols = _counterparts(before, after)
    gone: list[Site] = []
    added: list[Site] = []
    changed: list[Change] = []
    removed: Counter[tuple[str, str, str]] = Counter()
    brought: Counter[tuple[str, str, str]] = Counter()
    same_count = 0
    for (symbol, kind), olds in before.items():
        news = after.pop((symbols.get(symbol, symbol), kind), [])
        for was, now in _paired(olds, news):
            fences = [Counter(map(_fence_key, site.fences if site else ())) for site in (was, now)]
            removed += fences[0] - fences[1]
            brought += fences[1] - fences[0]
            if was is None and now is not None:
                added.append(now)
            elif was is not None and now is None:
                gone.append(was)
            elif was is not None and now is not None:
                if differences := _differences(was, now):
                    changed.append(Change(was, now, differences))
                else:
                    same_count += 1
    for news in after.values():
        added += news
        brought += Counter(_fence_key(fence) for site in news for fence in site.fences)
    return Comparison(
        tuple(sorted(gone, key=lambda site: site.address)),
        tuple(sorted(added, key=lambda site: site.address)),
        tuple(sorted(changed, key=lambda change: change.new.address)),
        same_count,
        tuple(sorted(removed.elements())),
        tuple(sorted(brought.elements())),
    )


def fence_words(fence: Fence) -> str:
    """Return a fence as tables show it: ``lfence call x86_lfence``, ``lock add inline``."""
    if fence.how is How.INLINE:
        return f"{fence.mnemonic} inline"
    return f"{fence.mnemonic} {'jump' if fence.how is How.TAIL_JUMP else 'call'} {fence.via}".rstrip()


def key_words(key: tuple[str, str, str]) -> str:
    """Return a fence of a Comparison as text: ``lfence in x86_lfence``, ``lock add inline``."""
    mnemonic, how, via = key
    return f"{mnemonic} {'inline' if how == How.INLINE else 'in'} {via}".rstrip()


def _grouped(sites: Iterable[Site]) -> _Groups:
    groups: _Groups = {}
    for site in sites:
        if site.kind is not Kind.DEBUG_READ:
            groups.setdefault((site.symbol, site.kind), []).append(site)
    return groups


def _counterparts(before: _Groups, after: _Groups) -> Mapping[str, str]:
    """Map symbols of the old image to those of the new image that have a different name there."""
    names = [_names(groups) for groups in (before, after)]
    taken = set(names[0]) & set(names[1])
    # All names of the symbols that only the new image has.
    known = {name: symbol for symbol in sorted(names[1]) if symbol not in taken for name in names[1][symbol]}
    found: dict[str, str] = {}
    for symbol in sorted(names[0]):
        match = next((known[name] for name in names[0][symbol] if name in known), None)
        if symbol not in taken and match is not None and match not in taken:
            found[symbol] = match
            taken.add(match)
    return found


def _names(groups: _Groups) -> dict[str, tuple[str, ...]]:
    """Return each symbol with all its names, those without suffixes last; unnamed sites are left out."""
    names: dict[str, dict[str, None]] = {}
    for (symbol, _), sites in groups.items():
        if symbol:
            aliases = (alias for site in sites for alias in site.aliases)
            names.setdefault(symbol, {}).update(dict.fromkeys((symbol, *aliases)))
    return {symbol: (*all_of, *map(base_name, all_of)) for symbol, all_of in names.items()}


def _paired(olds: Sequence[Site], news: Sequence[Site]) -> Iterable[tuple[Site | None, Site | None]]:
    """Yield the sites of one symbol and kind in pairs, in order; None for a site without a partner.

    If their numbers differ, sites that look the same on both sides are paired first.
    """
    if len(olds) == len(news) or max(len(olds), len(news)) > _MOST_ALIGNED:
        yield from _in_order(olds, news)
        return
    matcher = SequenceMatcher(None, [_look(site) for site in olds], [_look(site) for site in news], False)
    old_at = new_at = 0
    for old_from, new_from, size in matcher.get_matching_blocks():
        yield from _in_order(olds[old_at:old_from], news[new_at:new_from])
        old_at, new_at = old_from + size, new_from + size
        yield from _in_order(olds[old_from:old_at], news[new_from:new_at])


def _in_order(olds: Sequence[Site], news: Sequence[Site]) -> Iterable[tuple[Site | None, Site | None]]:
    for order in range(max(len(olds), len(news))):
        yield olds[order] if order < len(olds) else None, news[order] if order < len(news) else None


def _look(site: Site) -> tuple[object, ...]:
    """Return what distinguishes a site from its neighbours, whatever its address."""
    return site.text, site.width_bytes, tuple(_fence_key(fence) for fence in site.fences)


def _fence_key(fence: Fence) -> tuple[str, str, str]:
    # If the compiler turns the call into a jump, the same fence executes.
    return fence.mnemonic, How.INLINE if fence.how is How.INLINE else How.CALLEE, fence.via


def _differences(old: Site, new: Site) -> tuple[str, ...]:
    """Return the differences as text; a different address is not one."""
    was, now = (Counter(map(_fence_key, site.fences)) for site in (old, new))
    found = [f"fence gone: {key_words(key)}" for key in sorted((was - now).elements())]
    found += [f"fence new: {key_words(key)}" for key in sorted((now - was).elements())]
    hazards = [{hazard.name for hazard in site.hazards} for site in (old, new)]
    found += [f"hazard gone: {name}" for name in sorted(hazards[0] - hazards[1])]
    found += [f"hazard new: {name}" for name in sorted(hazards[1] - hazards[0])]
    if old.verdict != new.verdict:
        found.append(f"verdict: {old.verdict} -> {new.verdict}")
    if old.width_bytes != new.width_bytes:
        found.append(f"width: {old.width_bytes} -> {new.width_bytes} bytes")
    if old.cpu != new.cpu:
        found.append(f"pointer: {old.cpu} -> {new.cpu}")
    if old.pending_paths != new.pending_paths:
        found.append(f"pending test after it: on {old.pending_paths} -> {new.pending_paths}")
    return tuple(found)
