"""`xtrace diff`: what changed between two groups of captures, and how certain it is."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xtrace.cli.commands.results.trial_results import are_trials, diff_trials
from xtrace.cli.help import Command
from xtrace.cli.options import (
    DOMAIN_FORMS,
    AsHtml,
    AsJson,
    CpuHz,
    MaxInput,
    NoColor,
    NoPager,
    offered,
    one_of,
)
from xtrace.cli.terminal.pager import paged
from xtrace.cli.terminal.progress import bar
from xtrace.cli.terminal.style import put, tell
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.analysis.comparison.compare import Change, Diff
    from xtrace.analysis.comparison.figures import Figure

#: The exit code that --fail-above asks for.
ROSE = 3

#: Replaces `--` in the arguments: no file name can contain it.
_BETWEEN = "\0"
#: Endings of what else a folder of captures contains.
_NOT_CAPTURES = (".json", ".old", ".new")


class Sort(StrEnum):
    """The order of rows."""

    DOMAIN = "domain"
    CHANGE = "change"
    P = "p"


class DiffCommand(Command):
    """Keeps the `--` between the groups, which the parser would take as the end of the options."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace each `--` by a mark that the parser leaves alone."""
        return super().parse_args(ctx, [_BETWEEN if word == "--" else word for word in args])


#: How typer parses the arguments.
COMMAND = DiffCommand


def diff(
    captures: Annotated[
        list[str],
        typer.Argument(
            metavar="OLD NEW | OLD... -- NEW...",
            help="Traces, captures or summaries. Repetitions: several files, a folder of them, "
            "or a quoted pattern ('old*.bin').",
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC",
            help="Compare only this metric. Repeatable.",
            autocompletion=offered(lambda: _metrics()),
        ),
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN",
            help=f"Only this domain, {DOMAIN_FORMS}, or host. Repeatable.",
        ),
    ] = None,
    renamed: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Domain OLD of the old captures is domain NEW of the new ones. Repeatable.",
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Compare all metrics, not just the main ones.")
    ] = False,
    sort: Annotated[Sort, typer.Option(help="Order of the rows.")] = Sort.DOMAIN,
    fail_above: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=PERCENT",
            help="Exit with 3 if METRIC rose by more than PERCENT, beyond chance, in any domain shown. "
            "Repeatable.",
        ),
    ] = None,
    cpu_hz: CpuHz = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep/--no-keep",
            help="Keep each trace's summary beside it, so that the next diff with --keep is fast.",
        ),
    ] = False,
    max_input: MaxInput = None,
    no_pager: NoPager = False,
    no_color: NoColor = False,
    json: AsJson = False,
    html: AsHtml = None,
) -> None:
    """Compare captures, or groups of repeated captures: what changed by more than chance explains.

    A change has ~ before it where chance may explain it, by a rank test over the captures of both groups.
    The p-values of all rows are corrected together (Holm).
    """
    old, new = _groups(captures)
    if len(old) == len(new) == 1 and are_trials(old[0], new[0]):
        diff_trials(old[0], new[0], json=json, html=html)
        return
    gates = [_gate(text) for text in fail_above or ()]
    _must_have_traces([*old, *new])
    page = None
    if html is not None:
        from xtrace.cli.page.write import PageFile

        page = PageFile(html, [*old, *new])
    from xtrace.analysis.loading.reading import Reading
    from xtrace.analysis.loading.summaries import Loading

    with Loading([*old, *new], Reading(progress=bar), keeping=keep, tell=tell) as loading:
        # Import this while the traces are read.
        from xtrace.analysis.comparison.compare import diff as compare
        from xtrace.analysis.comparison.compare import json_text

        figures = _figures(metric or (), [name for name, _ in gates], every=every)
        summaries = loading.result()
    found = compare(
        summaries[: len(old)],
        summaries[len(old) :],
        hz=cpu_hz,
        figures=figures,
        domains=domain or (),
        renamed=dict(_pair(text) for text in renamed or ()),
    )
    if page is not None:
        page.write_diff(found)
    if json:
        typer.echo(json_text(found))
    elif page is None:
        from xtrace.cli.render.diff import print_diff

        with paged(wanted=not no_pager):
            print_diff(put, found, _sorted(found.changes, sort))
    _decide(found, gates)


# --- what is compared --------------------------------------------------------------------------


def _groups(words: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files of the old and of the new group."""
    count = words.count(_BETWEEN)
    if count > 1:
        raise typer.BadParameter("two groups are compared: write one -- between them", param_hint="OLD NEW")
    if count:
        middle = list(words).index(_BETWEEN)
        sides = (words[:middle], words[middle + 1 :])
    elif len(words) == 2:
        sides = (words[:1], words[1:])
    else:
        raise typer.BadParameter(
            "write -- between the old and the new captures"
            if len(words) > 2
            else "needs two captures, or two groups with -- between them",
            param_hint="OLD NEW",
        )
    old, new = ([path for word in side for path in _files(word)] for side in sides)
    for side, name in ((old, "old"), (new, "new")):
        if not side:
            raise typer.BadParameter(f"there is no {name} capture", param_hint="OLD NEW")
        known = [os.path.realpath(path) for path in side]
        if twice := [path for path, real in zip(side, known, strict=True) if known.count(real) > 1]:
            raise typer.BadParameter(
                f"{twice[0]} is given twice: that is one repetition", param_hint="OLD NEW"
            )
    return old, new


def _files(word: str) -> list[Path]:
    """Return the captures that an argument names: a file, those in a folder, those that match a pattern."""
    from xtrace.probes.capture.layout import is_capture

    path = Path(word)
    if not os.path.lexists(path) and glob.has_magic(word):
        found = sorted(Path(name) for name in glob.glob(word))  # noqa: PTH207 - not below one folder
        if not found:
            raise TraceError(f"{word}: no file matches")
        return [each for each in found if _is_one(each, found)]
    if not path.is_dir() or is_capture(path):
        return [path]
    inside = sorted(path.iterdir())
    found = [each for each in inside if _is_one(each, inside)]
    if not found:
        raise TraceError(f"{path}: the folder contains no captures")
    return found


def _is_one(path: Path, others: Sequence[Path]) -> bool:
    """Return whether a path is a capture, not a sidecar or the summary of a trace that is listed itself."""
    from xtrace.analysis.summary.summary_head import SUFFIX
    from xtrace.probes.capture.layout import is_capture

    if path.is_dir():
        return is_capture(path) and not path.name.endswith(_NOT_CAPTURES)
    if path.name.startswith(".") or path.name.endswith(_NOT_CAPTURES):
        return False
    return not (path.name.endswith(SUFFIX) and path.with_name(path.name.removesuffix(SUFFIX)) in others)


def _must_have_traces(paths: Sequence[Path]) -> None:
    """Refuse a capture without Xen's trace before anything is read or kept."""
    from xtrace.probes.capture.layout import is_dom0_only

    for path in paths:
        if is_dom0_only(path):
            from xtrace.analysis.comparison.compare import without_figures

            raise TraceError(without_figures(path))


def _figures(wanted: Sequence[str], gated: Sequence[str], *, every: bool) -> list[Figure]:
    from xtrace.analysis.comparison.figures import BY_NAME, FIGURES

    for names, option in ((wanted, "--metric"), (gated, "--fail-above")):
        for name in names:
            one_of(name, BY_NAME, option)
    return [
        figure
        for figure in FIGURES
        if figure.name in gated or (figure.name in wanted if wanted else every or figure.key)
    ]


def _metrics() -> Iterable[str]:
    from xtrace.analysis.comparison.figures import BY_NAME

    return BY_NAME


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not (old and equals and new):
        raise typer.BadParameter(f"{text!r} is not OLD=NEW", param_hint="--map")
    return old, new


def _sorted(changes: Sequence[Change], sort: Sort) -> list[Change]:
    if sort is Sort.CHANGE:
        return sorted(changes, key=lambda row: (not row.differs, -abs(row.rise_ratio)))
    if sort is Sort.P:
        return sorted(changes, key=lambda row: row.p)
    return list(changes)


# --- --fail-above ------------------------------------------------------------------------------


def _gate(text: str) -> tuple[str, float]:
    name, equals, percent = text.partition("=")
    try:
        most = float(percent.removesuffix("%"))
    except ValueError:
        most = -1.0
    if not (name and equals and 0 <= most < float("inf")):
        raise typer.BadParameter(f"{text!r} is not METRIC=PERCENT", param_hint="--fail-above")
    return name, most / 100


def _decide(found: Diff, gates: Sequence[tuple[str, float]]) -> None:
    """Raise Exit(3) if a gated metric rose too far, and TraceError if that cannot be decided."""
    for name, most in gates:
        rows = [row for row in found.changes if row.figure.name == name]
        if any(row.differs and row.rise_ratio > most for row in rows):
            raise typer.Exit(ROSE)
    for name, _ in gates:
        rows = [row for row in found.changes if row.figure.name == name]
        if not rows:
            raise TraceError(f"--fail-above {name}: no domain has it in all captures")
        for row in rows:
            if not found.can_tell(row):
                raise TraceError(
                    f"--fail-above {name}: {len(row.old)} against {len(row.new)} captures of {row.domain} "
                    f"cannot decide it with {len(found.changes)} rows; take {found.runs_needed} per side, "
                    "or fewer rows with --metric and --domain"
                )
