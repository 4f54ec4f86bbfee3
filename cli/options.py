"""Options that several commands share: each is defined once, so that it means the same in all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xtrace.cli.terminal.style import leave_plain
from xtrace.cli.terminal.text import nearest
from xtrace.probes.selection.times import Moment, duration_s, frequency_hz
from xtrace.probes.selection.vcpus import Pcpus, Vcpu

if TYPE_CHECKING:
    from xtrace.analysis.report.request import GuestImage
    from xtrace.probes.catalog import VersionRange
else:
    # The catalogue takes 10 ms to import, which --help does not need.
    VersionRange = Any


def parsed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser for ``typer.Option(parser=...)``; typer would drop the message of its ValueError."""

    def parser(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parser


def _version_range(text: str) -> VersionRange:
    from xtrace.probes.catalog import NEWEST, OLDEST, VersionRange

    found = VersionRange.parse(text)
    if max(found.low, found.high or found.low) > NEWEST:
        raise ValueError(f"records of Xen {OLDEST} to {NEWEST} are known; for a newer one, use {NEWEST}+")
    return found


def offered(values: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return a completer for ``typer.Option(autocompletion=...)``: it offers values with the typed prefix."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete


def class_names() -> Iterable[str]:
    """Return the names of trace classes and sub-classes, for completion."""
    from xtrace.probes.selection.event_masks import NAMES

    return NAMES


# --- what is selected of a trace ---------------------------------------------------------------

DOMAIN_FORMS = "by id (3 or d3) or name"

DomainNames = Annotated[
    list[str] | None,
    typer.Option("--domain", metavar="DOMAIN", help=f"Only this domain, {DOMAIN_FORMS}. Repeatable."),
]
Vcpus = Annotated[
    list[Vcpu] | None,
    typer.Option(
        "--vcpu",
        parser=parsed(Vcpu.parse),
        metavar="VCPU",
        help="Only this vCPU: d3v0, or 0 for vCPU 0 of every domain. Repeatable.",
    ),
]
From = Annotated[
    Moment | None,
    typer.Option(
        "--from",
        parser=parsed(Moment.parse),
        metavar="TIME",
        help="Only from this time on, counted from the first record: 1.5s, 300ms, 20us, 123c (TSC cycles) or "
        "tsc:N (a TSC). Without a unit: seconds.",
    ),
]
To = Annotated[
    Moment | None,
    typer.Option(
        "--to", parser=parsed(Moment.parse), metavar="TIME", help="Only before this time, as --from."
    ),
]
EventClasses = Annotated[
    str | None,
    typer.Option(
        "--class",
        "-e",
        metavar="LIST",
        help="Only these trace classes, as for xentrace -e: sched,hvm,hw_irq or masks such as 0x2f000.",
        autocompletion=offered(class_names),
    ),
]
PcpuList = Annotated[
    Pcpus | None,
    typer.Option(
        "--pcpu", "-c", parser=parsed(Pcpus.parse), metavar="LIST", help="Only these pCPUs: 0,4-7 or 0xf1."
    ),
]

# --- how a trace is read -----------------------------------------------------------------------

CpuHz = Annotated[
    int | None,
    typer.Option(
        parser=parsed(frequency_hz),
        metavar="HZ",
        help="TSC cycles per second, such as 2.8G. Default: from the recorder or the trace.",
    ),
]
XenVersion = Annotated[
    VersionRange | None,
    typer.Option(
        "--xen",
        parser=parsed(_version_range),
        metavar="VERSION",
        help="Xen version that wrote the trace: 4.17, 4.13-4.17, 4.13+. Default: detected.",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first damage.")]

_MULTIPLES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size_bytes(text: str) -> int:
    """Return the bytes of ``500M``; K, M, G and T are powers of 1024.

    Raises:
        ValueError: it is not a size.
    """
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([kmgt]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size; write 500M or 2G")
    return round(float(found[1]) * _MULTIPLES[found[2]])


def _allow(plain_bytes: int | None) -> int | None:
    """Take --max-input: compressed files may unpack to so much from now on."""
    if plain_bytes is not None:
        from xtrace.probes.intact.compressed import allow

        allow(plain_bytes)
    return plain_bytes


MaxInput = Annotated[
    int | None,
    typer.Option(
        "--max-input",
        parser=parsed(size_bytes),
        callback=_allow,
        metavar="SIZE",
        help="Read compressed or sparse files of up to SIZE (2G), even if over 200 times what is stored.",
    ),
]
InputFile = Annotated[
    str | None,
    typer.Option("--input", "-i", metavar="FILE", help="Replay a trace or a capture; - is stdin."),
]
Follow = Annotated[
    bool, typer.Option("--follow", "-F", help="With -i: wait for more where the file ends; until Ctrl-C.")
]
TracesHvm = Annotated[bool, typer.Option("--hvm", help="Also trace HVM and PVH guests, with every VM exit.")]

# --- a guest's kernel --------------------------------------------------------------------------

Kernels = Annotated[
    list[str] | None,
    typer.Option(
        "--kernel",
        metavar="DOMAIN=IMAGE",
        help="Kernel image of this domain, to resolve its sampled addresses and find its fences; "
        "IMAGE@0xOFFSET if it was loaded OFFSET bytes above its link address. Repeatable.",
    ),
]
SymbolFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--symbols",
        readable=False,
        metavar="FILE",
        help="System.map or kallsyms of the image; one for each of two images.",
    ),
]
DebugFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--debug",
        readable=False,
        metavar="FILE",
        help="Debug file of the image; one for each of two images.",
    ),
]


def one_each(files: Sequence[Path] | None, images: int, option: str) -> list[Path | None]:
    """Return the file that --symbols or --debug names for each image; None for each without the option.

    Raises:
        typer.BadParameter: there is not one file for each image.
    """
    if files and len(files) != images:
        raise typer.BadParameter("is needed once for each image", param_hint=option)
    return list(files) if files else [None] * images


def guest_image(text: str) -> GuestImage:
    """Read ``DOMAIN=IMAGE[@0xOFFSET]``."""
    from xtrace.analysis.report.request import GuestImage

    found = re.fullmatch(r"([^=]+)=(.+?)(?:@(-?0x[0-9a-fA-F]{1,16}))?", text, re.ASCII | re.DOTALL)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=IMAGE or DOMAIN=IMAGE@0xOFFSET", param_hint="--kernel"
        )
    return GuestImage(found[1], Path(found[2]), None if found[3] is None else int(found[3], 16))


# --- output ------------------------------------------------------------------------------------

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
AsHtml = Annotated[
    Path | None,
    typer.Option(
        "--html",
        readable=False,
        allow_dash=True,
        metavar="FILE",
        help="Write one HTML file with figures, to be opened without a network; - is stdout.",
    ),
]
NoPager = Annotated[bool, typer.Option("--no-pager", help="Print at once, without a pager.")]
NoColor = Annotated[
    bool,
    typer.Option("--no-color", callback=leave_plain, help="Leave text plain, as NO_COLOR does."),
]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def seconds(least: float, most: float = 1e9) -> Callable[[str], float]:
    """Return a parser of durations for ``typer.Option(parser=...)``; typer calls it with defaults, too."""

    def parse(text: str) -> float:
        found = duration_s(str(text))
        if not least <= found <= most:
            limit = f"between {least:g} and {most:g}" if most < 1e9 else f"{least:g} or more"
            raise ValueError(f"{text} is not {limit} seconds")
        return found

    return parsed(parse)


def one_of(text: str, values: Iterable[str], option: str) -> str:
    """Return ``text`` if it is one of ``values``.

    Raises:
        typer.BadParameter: it is not; the message lists them.
    """
    known = list(values)
    if text not in known:
        message = f"{text!r} is not one of {', '.join(known)}{nearest(text, known)}"
        raise typer.BadParameter(message, param_hint=option)
    return text


def renamed(old: str, new: str, **how: Any) -> Any:
    """Return a hidden option for the old name of an option; it still works in this version."""

    def warn(value: Any) -> Any:
        if value is not None:
            typer.echo(f"xtrace: {old} is now {new}; {old} will be removed in the next version", err=True)
        return value

    return typer.Option(old, hidden=True, callback=warn, **how)


def told_to_follow(follow: bool, path: str | None) -> Callable[[str], None] | None:
    """Return what prints a line about a file that is followed, None if none is."""
    if follow and path is None:
        raise typer.BadParameter("needs -i FILE", param_hint="--follow")
    return (lambda line: typer.echo(f"xtrace: {line}", err=True)) if follow else None
