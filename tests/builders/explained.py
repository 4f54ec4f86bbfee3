"""docs/explained: what `xtrace sites --explain` prints of up to three sites of each kind, all of it.

PYTHONPATH=tests python -m builders.explained     (writes the pages)

The sites are of the project's own guests and of Debian's kernel.  Of the guests in assembly, the code depends
on no compiler; Debian's kernel is of the version that the pages name.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builders.guest import Builder, Carries, Variant
from builders.shapes import built
from peer.debian import dependency, unpacked
from xtrace.cli.commands.explain import print_explanation
from xtrace.symbols.image.image import open_image
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind, Site, SiteTable

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "explained"
EACH = 3
DEBIAN = "Debian's kernel"
#: Without lines, whose paths would depend on where the project is.
VARIANT = Variant(carries=Carries.SYMBOLS)
_GUESTS = (
    "netbsd_amd64.S", "illumos_amd64.S", "hazards_amd64.S", "handlers_amd64.S", "unlocked_amd64.S",
    "linux_amd64.S", "minios_amd64.S",
)  # fmt: skip
_SHAPES = ("unbalanced-entered-masked.s", "selector-plain-clear.s", "wide-constant-merge.s")


@dataclass(frozen=True, slots=True)
class Source:
    """An image.

    Attributes:
        name: as the pages say it; file: the image's name in them.
        table: its sites.
    """

    name: str
    file: str
    table: SiteTable


def debian() -> Source:
    """Return Debian's kernel; without the package the test is skipped, as peer.debian says."""
    package = dependency("linux-image-cloud-amd64", r"linux-image-\d\S*-cloud-amd64")
    (kernel,) = (unpacked(package) / "boot").glob("vmlinuz-*")
    return _source(f"{DEBIAN}, {kernel.name}", kernel)


def guests(folder: Path) -> Iterator[Source]:
    """Yield the project's own guests, assembled in a folder."""
    yield _source("the guest of the samples", ROOT / "samples" / "own-lfence.elf")
    builder = Builder(folder)
    for name in _GUESTS:
        yield _source(f"tests/symbols/guests/{name}", builder.build(name, VARIANT).image)
    for name in _SHAPES:
        yield _source(f"tests/symbols/guests/shapes/{name}", built(folder, name))


def _source(name: str, path: Path) -> Source:
    return Source(name, path.name, find_sites(open_image(path)))


def chosen(sources: list[Source]) -> Mapping[Kind, list[tuple[Source, Site]]]:
    """Return up to three sites of each kind: such that differ in verdict, else hazards, else source."""
    every: dict[Kind, list[tuple[Source, Site]]] = defaultdict(list)
    for source in sources:
        for site in source.table.sites:
            every[site.kind].append((source, site))
    found: dict[Kind, list[tuple[Source, Site]]] = {}
    for kind, sites in every.items():
        picked: list[tuple[Source, Site]] = []
        for differs in (_verdict, _judged, _look, _address):
            for each in sites:
                if len(picked) < EACH and differs(*each) not in {differs(*one) for one in picked}:
                    picked.append(each)
        found[kind] = picked
    return {kind: found[kind] for kind in Kind if kind in found}


def _verdict(source: Source, site: Site) -> object:
    return site.verdict


def _judged(source: Source, site: Site) -> object:
    return site.verdict, tuple(hazard.name for hazard in site.hazards)


def _look(source: Source, site: Site) -> object:
    return source.name, _judged(source, site)


def _address(source: Source, site: Site) -> object:
    return source.name, site.address


def explained(source: Source, site: Site) -> str:
    """Return what the command prints."""
    lines: list[str] = []

    def put(text: str, *, bold: bool = False, dim: bool = False) -> None:
        lines.append(f"{text}\n")

    print_explanation(put, source.table, f"{site.address:#x}")
    return "".join(lines)


def pages(sources: list[Source]) -> dict[str, str]:
    """Return the text of each page by its file name."""
    found = chosen(sources)
    made = {"README.md": _contents(found)}
    for kind, sites in found.items():
        lines = [f"# {kind}", ""]
        for source, site in sites:
            lines += [
                f"## {_title(source, site)}",
                "",
                "```console",
                f"$ xtrace sites --explain {site.address:#x} {source.file}",
                explained(source, site) + "```",
                "",
            ]
        made[_page(kind)] = "\n".join(lines)
    return made


def _title(source: Source, site: Site) -> str:
    return f"{source.name}: {site.symbol or hex(site.address)}, {site.verdict}"


def _page(kind: Kind) -> str:
    return f"{kind.replace(' ', '-')}.md"


def _contents(found: Mapping[Kind, list[tuple[Source, Site]]]) -> str:
    lines = [
        "# Sites explained",
        "",
        "All that `xtrace sites --explain` prints of three sites of each kind, of the project's own",
        "guests and of Debian's kernel: the site's accesses with their addresses, and the argument, or the",
        "interleaving that loses an event. [sites.md](../sites.md) says how to read it.",
        "",
        "Written by `PYTHONPATH=tests python -m builders.explained`; a test compares it.",
        "",
        "| kind | site | verdict | hazards |",
        "|---|---|---|---|",
    ]
    for kind, sites in found.items():
        for source, site in sites:
            hazards = ", ".join(hazard.name for hazard in site.hazards) or "none"
            where = f"{source.name}: `{site.symbol or hex(site.address)}`"
            lines.append(f"| [{kind}]({_page(kind)}) | {where} | {site.verdict} | {hazards} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made_in:
        texts = pages([debian(), *guests(Path(made_in))])
    PAGES.mkdir(exist_ok=True)
    for old in PAGES.glob("*.md"):
        old.unlink()
    for page_name, text in texts.items():
        (PAGES / page_name).write_text(text)
