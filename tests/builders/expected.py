"""Read the expectations in the guests' sources, and compare the finder's results with them.

An expectation is a comment on the line of its statement::

    SITE kind[?] [key=value ...]

``kind`` has ``-`` for spaces; alternatives are split by ``|``; ``?`` means that the site may be absent.
The keys (a mask, restore or unmask site without the key ``fence`` must have no fence):

========== ==========================================================================================
fence      mnemonic/how[/position][/paths][:verdict], several joined by ``+``; ``_`` for spaces;
           alternatives for how joined by ``|``
verdict    of the site; without fences it is ``no-fence``
hazards    names joined by ``+``; one with ``?`` may be absent; unstable-pointer is left to ``pointer``
pointer    ``stable`` or ``unstable``: without or with the hazard unstable-pointer
tests      ``all``, ``some`` or ``none``: pending_paths
callbacks  ``yes``: a force callback is guarded by the pending test
exit       ``yes`` or ``no``: whether the exit that covers an unmask is reported
cpu        ``running``, ``loaded``, ``guarded``, ``fixed`` or ``other``; several joined by ``|``
width      bytes
via        the callee that contains the fence
aliases    the names of the symbol and its aliases
in         functions that must contain the site, if a helper is inlined into them
decoy      ``dwarf``: not a site, which only DWARF shows; without DWARF only the kind is compared
========== ==========================================================================================

The reference's DWARF line table maps lines to addresses, so nothing here decodes an instruction.  Code with
line 0, which a compiler made of several lines, must be as any of the expectations says.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.sites.model import Cpu, Fence, Kind, Site

_COMMENT = re.compile(r"(?:#|/\*|//)\s*SITE\s+([^*\n]*)")
_EXECUTABLE = 4
#: Kinds of site that must not have a fence unless the expectation has ``fence``.
_FENCED = (Kind.MASK, Kind.RESTORE, Kind.UNMASK)
_UNSTABLE = "unstable-pointer"
_PATHS = {"all": Paths.ALL, "some": Paths.SOME, "none": Paths.NONE}
_CPUS = {
    "running": Cpu.RUNNING,
    "loaded": Cpu.LOADED,
    "guarded": Cpu.GUARDED,
    "fixed": Cpu.FIXED,
    "other": Cpu.OTHER,
}
_KEYS = frozenset(
    [
        "fence",
        "verdict",
        "hazards",
        "pointer",
        "tests",
        "callbacks",
        "exit",
        "cpu",
        "width",
        "via",
        "aliases",
        "in",
        "decoy",
    ]
)

#: A place in an image: the section's name and the offset in it.
Spot = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation.

    Attributes:
        kinds: the site may have any of these kinds.
        optional: the site may be absent.
    """

    file: str
    line: int
    kinds: tuple[Kind, ...]
    optional: bool
    keys: dict[str, str]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {'|'.join(self.kinds)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a line table, valid up to the next one."""

    spot: Spot
    file: str
    line: int


def expectations(*sources: Path) -> list[Expected]:
    """Return the expectations of source files.

    Raises:
        ValueError: a word after SITE is not a key of the table above.
    """
    found = []
    for source in sources:
        for line, text in enumerate(source.read_text().splitlines(), 1):
            found += [_parse(source.name, line, match[1].split()) for match in _COMMENT.finditer(text)]
    return found


def _parse(file: str, line: int, words: list[str]) -> Expected:
    kinds = tuple(Kind(word.replace("-", " ")) for word in words[0].rstrip("?").split("|"))
    keys = dict(word.split("=", 1) for word in words[1:])
    unknown = keys.keys() - _KEYS
    if unknown:
        raise ValueError(f"{file}:{line}: no such key: {sorted(unknown)}")
    return Expected(file, line, kinds, words[0].endswith("?"), keys)


# --- lines ---------------------------------------------------------------------------------------


class Lines:
    """The line table and the functions of a reference."""

    def __init__(self, reference: Path) -> None:
        with reference.open("rb") as stream:
            elf = ELFFile(stream)
            self._rows = sorted(_rows(elf), key=lambda row: row.spot)
            self._functions = sorted(_functions(elf))
        self._spots = [row.spot for row in self._rows]

    def at(self, spot: Spot) -> tuple[str, int] | None:
        """Return file name and line of a place; None if the table has none."""
        place = bisect.bisect_right(self._spots, spot) - 1
        row = self._rows[place] if place >= 0 else None
        if row is None or row.spot[0] != spot[0] or not row.line:
            return None
        return row.file, row.line

    def is_merged(self, spot: Spot) -> bool:
        """Return whether a place has line 0: code that a compiler made of several lines."""
        place = bisect.bisect_right(self._spots, spot) - 1
        row = self._rows[place] if place >= 0 else None
        return row is not None and row.spot[0] == spot[0] and bool(row.file) and not row.line

    def function_at(self, spot: Spot) -> str:
        """Return the function that contains a place, without a suffix such as ``.cold``."""
        place = bisect.bisect_right(self._functions, (spot, "\uffff")) - 1
        return self._functions[place][1].split(".")[0] if place >= 0 else ""


def _rows(elf: ELFFile) -> Iterator[Row]:
    """Yield the rows; line 0 ends a sequence.

    In an object file every section starts at 0, so a sequence's section comes from the relocation of its
    start.
    """
    dwarf = elf.get_dwarf_info(relocate_dwarf_sections=elf["e_type"] == "ET_REL")
    starts = iter(_sequence_sections(elf))
    sections = [section for section in elf.iter_sections() if section["sh_flags"] & _EXECUTABLE]
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        first_file = 0 if program.header["version"] >= 5 else 1
        inside = ""
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if elf["e_type"] == "ET_REL":
                inside = inside or next(starts)
                spot = inside, state.address
            else:
                spot = _spot(sections, state.address)
            name = program.header["file_entry"][state.file - first_file].name.decode()
            yield Row(spot, Path(name).name, 0 if state.end_sequence else state.line)
            if state.end_sequence:
                inside = ""


def _sequence_sections(elf: ELFFile) -> Iterator[str]:
    symbols = elf.get_section_by_name(".symtab")
    for name in (".rela.debug_line", ".rel.debug_line"):
        relocations = elf.get_section_by_name(name)
        if not isinstance(relocations, RelocationSection) or not isinstance(symbols, SymbolTableSection):
            continue
        for relocation in relocations.iter_relocations():
            index = symbols.get_symbol(relocation["r_info_sym"])["st_shndx"]
            section = elf.get_section(index)
            if section["sh_flags"] & _EXECUTABLE:
                yield section.name


def _spot(sections: list[Section], address: int) -> Spot:
    for section in sections:
        if section["sh_addr"] <= address <= section["sh_addr"] + section["sh_size"]:
            return section.name, address - section["sh_addr"]
    raise ValueError(f"{address:#x} is in no code")


def _functions(elf: ELFFile) -> Iterator[tuple[Spot, str]]:
    symbols = elf.get_section_by_name(".symtab")
    if not isinstance(symbols, SymbolTableSection):
        return
    for symbol in symbols.iter_symbols():
        if symbol["st_info"]["type"] == "STT_FUNC" and isinstance(symbol["st_shndx"], int):
            section = elf.get_section(symbol["st_shndx"])
            yield (section.name, symbol["st_value"] - section["sh_addr"]), symbol.name


# --- comparison ----------------------------------------------------------------------------------


def differences(
    sites: Iterable[tuple[Spot, Site]], expected: list[Expected], lines: Lines, *, exact: bool
) -> list[str]:
    """Return the differences between the finder's sites and the expectations, one line each.

    Args:
        sites: the sites found, with their places.
        exact: every line gives one site (assembly); otherwise at least one (compiled code).
    """
    by_line = {(one.file, one.line): one for one in expected}
    wrong = []
    counts: Counter[tuple[str, int]] = Counter()
    holders: dict[tuple[str, int], set[str]] = {}
    for spot, site in sites:
        at = lines.at(spot)
        one = by_line.get(at) if at is not None else None
        if lines.is_merged(spot) and any(not [*_mismatches(site, other)] for other in expected):
            continue
        if at is None or one is None:
            wrong.append(f"{at}: {site.symbol}+{site.offset:#x}: unexpected {site.kind}: {site.text}")
            continue
        counts[at] += 1
        holders.setdefault(at, set()).add(lines.function_at(spot))
        wrong += [f"{one}: {site.symbol}+{site.offset:#x}: {what}" for what in _mismatches(site, one)]
    for at, one in by_line.items():
        if not counts[at] and not one.optional:
            wrong.append(f"{one}: not found")
        if exact and counts[at] > 1:
            wrong.append(f"{one}: found {counts[at]} times")
        absent = _names(one.keys.get("in", "")) - holders.get(at, set())
        if absent and counts[at]:
            wrong.append(f"{one}: not found in {sorted(absent)}")
    return wrong


def _mismatches(site: Site, one: Expected) -> Iterator[str]:
    if site.kind not in one.kinds:
        yield f"kind is {site.kind}"
        return
    if "decoy" in one.keys:
        return
    yield from _fence_mismatches(site, one)
    yield from _hazard_mismatches(site, one)
    keys = one.keys
    if "tests" in keys and site.pending_paths != _PATHS[keys["tests"]]:
        yield f"a pending test follows on {site.pending_paths}, expected {keys['tests']}"
    if "callbacks" in keys and not site.callbacks:
        yield "no force callback"
    if "exit" in keys and bool(site.exit) != (keys["exit"] == "yes"):
        yield f"exit is {site.exit!r}, expected {keys['exit']}"
    if "cpu" in keys and site.cpu not in [_CPUS[word] for word in keys["cpu"].split("|")]:
        yield f"cpu is {site.cpu}, expected {keys['cpu']}"
    if "width" in keys and site.width_bytes != int(keys["width"]):
        yield f"width is {site.width_bytes}"
    if "aliases" in keys and {site.symbol, *site.aliases} != _names(keys["aliases"]):
        yield f"names are {site.symbol}, {site.aliases}"


def _fence_mismatches(site: Site, one: Expected) -> Iterator[str]:
    wanted = [word for word in one.keys.get("fence", "").split("+") if word]
    if not wanted and site.kind not in _FENCED:
        return
    left = list(site.fences)
    for word in wanted:
        match = next((fence for fence in left if _is_fence(fence, word)), None)
        if match is None:
            yield f"no fence {word}, but {[_described(fence) for fence in site.fences]}"
        else:
            left.remove(match)
            if one.keys.get("via", match.via) != match.via:
                yield f"the fence is in {match.via}"
    if left:
        yield f"unexpected fences: {[_described(fence) for fence in left]}"
    verdict = one.keys.get("verdict", "" if wanted else "no-fence").replace("-", " ")
    if verdict and site.verdict != verdict:
        yield f"verdict is {site.verdict} ({site.reason}), expected {verdict}"


def _is_fence(fence: Fence, word: str) -> bool:
    path, _, verdict = word.partition(":")
    mnemonic, how, *rest = path.split("/")
    mnemonic = mnemonic.replace("_", " ")
    sizes = "", "b", "w", "l", "q"
    return (
        fence.mnemonic in [mnemonic + size for size in sizes]
        and fence.how in how.replace("-", " ").split("|")
        and (not verdict or fence.verdict == verdict)
        and all(part == fence.position or _PATHS.get(part) == fence.paths for part in rest)
    )


def _described(fence: Fence) -> str:
    words = fence.mnemonic, fence.how, fence.position, fence.paths
    return f"{'/'.join(words)}:{fence.verdict} ({fence.reason})"


def _hazard_mismatches(site: Site, one: Expected) -> Iterator[str]:
    found = {hazard.name for hazard in site.hazards}
    words = [word for word in one.keys.get("hazards", "none").split("+") if word != "none"]
    required = {word for word in words if not word.endswith("?")}
    allowed = {word.rstrip("?") for word in words}
    if required - found:
        yield f"no hazard {sorted(required - found)}"
    extra = found - allowed - {_UNSTABLE}
    if extra:
        reasons = [f"{hazard.name}: {hazard.reason}" for hazard in site.hazards if hazard.name in extra]
        yield f"unexpected hazards: {reasons}"
    if "pointer" in one.keys and (_UNSTABLE in found) != (one.keys["pointer"] == "unstable"):
        yield f"the pointer is {'un' * (_UNSTABLE in found)}stable"


def _names(text: str) -> set[str]:
    return {name for name in text.split(",") if name}
