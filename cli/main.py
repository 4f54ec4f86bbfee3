"""The `xtrace` command: its sub-commands, the one place that prints errors, the exit codes.

Commands raise and never print errors.  The module of a command is imported when the command runs, and
imports what it needs beyond typer inside its functions, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from xtrace import __version__
from xtrace.cli.help import HELPS, Command, examples_and_exits
from xtrace.cli.streams import STDOUT
from xtrace.cli.terminal.text import nearest, safe
from xtrace.probes.errors import TraceError
from xtrace.symbols.errors import ImageError

OK = 0
FAILURE = 1
USAGE = 2
INTERRUPTED = 130
#: Of an error: values from a file may be long.
_MOST_MESSAGE = 1000

_HEAVY = {"elftools", "iced_x86", "numba", "numpy", "pandas", "rich", "scipy", "statsmodels"}

#: The commands, and the beginnings of their help, each of which fits its line in the list.
COMMANDS = {
    "record": "Record a live Xen host until Ctrl-C or for a time.",
    "doctor": "Check what can be recorded on this host, what is missing.",
    "top": "Show wakes, wake to running and upcalls of each vCPU.",
    "stat": "Print one line per interval for the whole host.",
    "report": "Report how event channels were delivered.",
    "dump": "Print every record, merged by time, by name and field.",
    "export": "Write a trace or its single events for another tool.",
    "anonymize": "Copy a trace or a capture without names, for people to send.",
    "info": "Print what a trace's headers say, without a full pass.",
    "diff": "Compare captures, or groups of repeated captures.",
    "sites": "List where a guest kernel masks, restores and unmasks upcalls.",
    "calibrate": "Measure how many cycles fences add to masks, restores, unmasks.",
    "trial": "Measure what a running program's fences cost: make them no-ops.",
}


class Commands(TyperGroup):
    """The commands, each in the module of its name, which is imported when the command is wanted."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # For the list in the help and typer's "Did you mean".
        self.commands = {name: TyperCommand(name, help=summary) for name, summary in COMMANDS.items()}

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, None if there is none of the name."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"xtrace.cli.commands.{cmd_name}")
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(cmd_name, cls=getattr(module, "COMMAND", Command))(getattr(module, cmd_name))
        return typer.main.get_command(alone)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, with examples and exit codes."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_commands(ctx, formatter)
        others = "xtrace COMMAND --help; --version, --install-completion, --show-completion"
        formatter.write("\n".join([*examples_and_exits(HELPS[""]), others]) + "\n")

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands without importing their modules."""
        width = formatter.width - 6 - max(map(len, COMMANDS))
        # Without the empty line of a section: all must fit one screen.
        formatter.write_heading("Commands")
        formatter.indent()
        formatter.write_dl(
            [(name, command.get_short_help_str(width)) for name, command in self.commands.items()]
        )
        formatter.dedent()


app = typer.Typer(
    name="xtrace",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xtrace {__version__}")
        raise typer.Exit(OK)


@app.callback(invoke_without_command=True)
def xtrace(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Record Xen hosts; show how events are delivered and what fences cost."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(USAGE)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line, ``sys.argv`` if none is given, and return its exit code."""
    try:
        code = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.TyperException as error:
        _complain(_usage_message(error))
        return error.exit_code
    except (TraceError, ImageError) as error:
        _complain(str(error))
        return FAILURE
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _HEAVY and error.name != "xtrace.analysis":
            raise
        # The zipapp for a dom0 does not contain these.
        _complain(f"this command needs {error.name}; pip install xtrace, here or where you copy the trace to")
        return FAILURE
    except MemoryError:
        _complain("not enough memory")
        return FAILURE
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        _complain("no thread can be started: there is too little memory, or there are too many threads")
        return FAILURE
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename == STDOUT:
            # `xtrace dump FILE | head`: the reader got what it wanted.
            return OK
        _complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        return FAILURE
    return code


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if "_XTRACE_COMPLETE" in os.environ:
        command.main(arguments, prog_name="xtrace")
    # Not command.main(), which has its own exit codes for a broken pipe and Ctrl-C.
    try:
        with command.make_context("xtrace", arguments, obj=tuple(arguments)) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return INTERRUPTED
    return OK


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    message = error.format_message().rstrip(".")
    option = getattr(error, "option_name", None)
    if context and option and getattr(error, "possibilities", None) is not None:
        known = [name for each in context.command.get_params(context) for name in each.opts]
        message = f"No such option: {option}{nearest(option, known, lead='--')}"
    return message + hint


def _complain(message: str) -> None:
    """Print ``message`` as one line; control characters, as in a file name, are escaped."""
    if len(message) > _MOST_MESSAGE:
        message = f"{message[: _MOST_MESSAGE // 2]} ... {message[-_MOST_MESSAGE // 2 :]}"
    print(f"xtrace: {safe(message)}", file=sys.stderr)  # noqa: T201 - the one place for errors
