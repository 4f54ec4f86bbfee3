"""`--help` of each command: one screen, with examples and exit codes; `--help-all` has all in full."""

from __future__ import annotations

from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperOption

from xtrace.cli.terminal.style import WIDTH
from xtrace.cli.terminal.text import cut, wrapped


class Example(NamedTuple):
    """A command line, and what it is for."""

    command: str
    purpose: str


class Help(NamedTuple):
    """What the help of a command has besides its options.

    Attributes:
        examples: three.
        exits: exit codes besides 0 success, 1 failure and 2 wrong usage; empty for none.
        options: names of the parameters that are on the first screen; empty for all.
    """

    examples: tuple[Example, Example, Example]
    exits: str = ""
    options: tuple[str, ...] = ()


#: By command; of no command: the program itself.
HELPS = {
    "": Help(
        (
            Example("xtrace report", "try it on a bundled sample"),
            Example("xtrace record -d 10 -o busy", "in dom0, as root"),
            Example("xtrace report busy.xtrace", "what was recorded, on one screen"),
        ),
        "3 where an option asks for it",
    ),
    "record": Help(
        (
            Example("xtrace record -d 10 -o busy", "ten seconds, into busy.xtrace"),
            Example("xtrace record -o build -- make -j4", "while a command runs"),
            Example("xtrace record --backend perf -F 999", "only samples of dom0"),
        ),
        "that of COMMAND if one is run; 1 also if the disk is full or a recorder died",
        ("output", "duration", "backend", "classes", "pcpu", "memory", "events", "max_size", "force"),
    ),
    "doctor": Help(
        (
            Example("xtrace doctor", "in dom0, as root"),
            Example("xtrace doctor --json", "for a program"),
            Example("/usr/bin/python3 xtrace.pyz doctor", "by the interpreter that has bcc"),
        ),
        "1 if nothing can be recorded",
    ),
    "top": Help(
        (
            Example("xtrace top", "live, in dom0, as root; h explains the keys"),
            Example("xtrace top -i trace.bin", "replay a trace as it would have looked live"),
            Example("xtrace top -b -n 3 -d 10", "three blocks of text, of 10 s each"),
        ),
        "",
        ("delay", "count", "sort", "domains", "ports", "batch", "input_", "hvm", "json"),
    ),
    "stat": Help(
        (
            Example("xtrace stat", "live, in dom0, as root: a line per second"),
            Example("xtrace stat 500ms 10 -i trace.bin", "ten lines of a trace"),
            Example("xtrace stat --json", "a JSON object per line"),
        ),
        "",
        ("interval", "count", "input_", "hvm", "json"),
    ),
    "report": Help(
        (
            Example("xtrace report trace.bin", "what happened, what is wrong"),
            Example("xtrace report --section way t.bin", "one question, all its rows"),
            Example("xtrace report --domain web --json t.bin", "one domain, for a program"),
        ),
        "3 if --require or --fail-on-finding applies",
        ("section", "full", "list_", "legend", "only_findings", "domain", "vcpu", "json", "html"),
    ),
    "dump": Help(
        (
            Example("xtrace dump trace.bin", "every record by time"),
            Example("xtrace dump --vcpu d3v0 --from 1s --head 50 t.bin", "one vCPU"),
            Example("xtrace dump --event 'wake*' --json t.bin", "one event, for a program"),
        ),
        "",
        ("json", "classes", "event", "pcpu", "domain", "vcpu", "begin", "end", "head", "bpf"),
    ),
    "export": Help(
        (
            Example("xtrace export t.bin -f perfetto -o t.pftrace", "for ui.perfetto.dev"),
            Example("xtrace export t.bin -f csv --what wakes -o w.csv", "a row per wake"),
            Example("xtrace export t.bin -f csv --what runs --slot 1s -o r.csv", "by second"),
        ),
        "",
        ("output", "format_", "what", "where", "by", "slot", "parts", "domain", "begin", "end", "force"),
    ),
    "anonymize": Help(
        (
            Example("xtrace anonymize busy.xtrace", "into busy.anonymous.xtrace"),
            Example("xtrace anonymize t.bin.zst -o send.bin", "a trace, with its .json"),
            Example("xtrace anonymize --force t.bin", "again, in place of t.anonymous.bin"),
        ),
    ),
    "info": Help(
        (
            Example("xtrace info trace.bin", "what the headers say, at once"),
            Example("xtrace info busy.xtrace", "the same of a capture"),
            Example("xtrace info --json trace.bin", "for a program"),
        ),
    ),
    "diff": Help(
        (
            Example("xtrace diff old.bin new.bin", "what differs: one run decides nothing"),
            Example("xtrace diff 'old*.xtrace' 'new*.xtrace'", "repetitions, which do"),
            Example("xtrace diff --keep old/ new/ --all", "all metrics; the next time is fast"),
        ),
        "3 if --fail-above applies, 1 if that cannot be decided",
        ("metric", "domain", "renamed", "every", "sort", "fail_above", "keep", "json", "html"),
    ),
    "sites": Help(
        (
            Example("xtrace sites netbsd", "where it masks upcalls"),
            Example("xtrace sites old new --fail-on removable", "what a patch changed"),
            Example("xtrace sites --explain splx+0x12 netbsd", "why no upcall is lost"),
        ),
        "3 if --fail-on, --expect or --expect-sites applies",
        ("only", "fail_on", "accept", "explain", "wide", "debug", "symbols", "json", "sarif"),
    ),
    "calibrate": Help(
        (
            Example("xtrace calibrate -o calibration.json", "what a fence takes on this host"),
            Example("xtrace calibrate -o c.json netbsd", "also a kernel's own sites"),
            Example("xtrace calibrate --quick --ns", "5 s, in ns"),
        ),
        "1 also where the host is emulated or too noisy for a figure",
        ("output", "force", "quick", "duration", "cpu", "ns", "json", "html", "symbols"),
    ),
    "trial": Help(
        (
            Example("xtrace trial --image g --plan", "what can be exchanged"),
            Example("xtrace trial --image g --pid 42 --counter n", "measure a process"),
            Example("xtrace trial --image g --counter n --really web", "a domain, in dom0"),
        ),
        "",
        (
            "domain",
            "image",
            "pid",
            "counter",
            "output",
            "plan",
            "really",
            "dry_run",
            "restore",
            "duration",
            "html",
        ),
    ),
}
_INDENT = "  "
_ALL = "--help-all"


class Command(TyperCommand):
    """A command whose help fits one screen."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, and --help-all where --help leaves options out."""
        found = super().get_params(ctx)
        if not HELPS[self.name or ""].options:
            return found
        return [*found[:-1], self._all(), found[-1]]

    def _all(self) -> TyperOption:
        if not hasattr(self, "_all_option"):
            self._all_option = TyperOption(
                param_decls=[_ALL],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_print_all,
                help="Show all options, and what they mean in full.",
            )
        return self._all_option

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: of one screen, unless all of it is wanted."""
        mine = HELPS[self.name or ""]
        if ctx.meta.get(_ALL) or not mine.options:
            super().format_help(ctx, formatter)
        else:
            self.format_usage(ctx, formatter)
            self._format_briefly(ctx, formatter, mine.options)
        formatter.write("\n" + "\n".join(examples_and_exits(mine)) + "\n")

    def _format_briefly(self, ctx: Any, formatter: Any, names: tuple[str, ...]) -> None:
        about = " ".join((self.help or "").split("\n\n")[0].split())
        rows = []
        for parameter in [*(_named(self.params, name) for name in names), self._all()]:
            spelled, said = parameter.get_help_record(ctx)
            rows.append((spelled, (parameter.help or said).split(". ")[0].rstrip(".")))
        longest = max(len(spelled) for spelled, _ in rows) + 2
        lines = [""]
        lines += [f"{_INDENT}{line}" for line in wrapped(about, WIDTH - 2)]
        lines += [""]
        room = WIDTH - len(_INDENT) - longest
        lines += [f"{_INDENT}{spelled:<{longest}}{_clause(said, room)}" for spelled, said in rows]
        formatter.write("\n".join(lines) + "\n")


def _clause(text: str, width: int) -> str:
    """Return ``text`` up to its end, or up to that of the longest clause that fits."""
    if len(text) <= width:
        return text
    ends = [place for place in range(width) if text[place] in ":;," and text[place + 1] == " "]
    return text[: max(ends)] if ends else cut(text, width)


def _named(parameters: list[Any], name: str) -> Any:
    return next(parameter for parameter in parameters if parameter.name == name)


def _print_all(context: Any, parameter: Any, wanted: bool) -> None:
    if wanted:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit(0)


def examples_and_exits(mine: Help) -> list[str]:
    """Return the lines that end a help."""
    longest = max(len(each.command) for each in mine.examples) + 2
    lines = ["Examples:"]
    lines += [f"{_INDENT}{each.command:<{longest}}{each.purpose}" for each in mine.examples]
    more = f"; {mine.exits}" if mine.exits else ""
    said = wrapped(f"Exit status: 0 success, 1 failure, 2 wrong usage{more}.", WIDTH)
    # The list of commands leaves no room for an empty line.
    return [*lines, *said] if mine is HELPS[""] else [*lines, "", *said]
