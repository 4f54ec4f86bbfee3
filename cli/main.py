"""The `xtrace` command: its sub-commands, the one place that prints errors, the exit codes.

Commands raise and never print errors.  A command module imports what it needs beyond typer
inside its functions, so that `--help` and `--version` answer at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from xtrace import __version__
from xtrace.cli.commands import calibrate, diff, doctor, dump, info, record, report, sites, stat, top
from xtrace.cli.render.terminal import safe
from xtrace.cli.streams import STDOUT
from xtrace.probes.errors import TraceError
from xtrace.symbols.errors import ImageError

OK = 0
FAILURE = 1
USAGE = 2
INTERRUPTED = 130

_HEAVY = {"elftools", "iced_x86", "numba", "numpy", "pandas", "rich"}

app = typer.Typer(
    name="xtrace",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(record.record)
app.command()(doctor.doctor)
app.command()(top.top)
app.command()(stat.stat)
app.command()(report.report)
app.command()(dump.dump)
app.command()(info.info)
app.command(cls=diff.DiffCommand)(diff.diff)
app.command()(sites.sites)
app.command()(calibrate.calibrate)


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
    """Record Xen hosts; show how events are delivered, what guests do, and what their kernels' fences cost.

    Exit status: 0 success, 1 failure, 2 wrong usage, 3 if sites --fail-on or diff --fail-above applies.
    """
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
        with command.make_context("xtrace", arguments) as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        return INTERRUPTED
    return OK


def _usage_message(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    hint = f" (see {context.command_path} --help)" if context else ""
    return error.format_message().rstrip(".") + hint


def _complain(message: str) -> None:
    """Print ``message`` as one line; control characters, as in a file name, are escaped."""
    print(f"xtrace: {safe(message)}", file=sys.stderr)  # noqa: T201 - the one place for errors
