"""Options shared by commands mean the same in each; completion; old names of options."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from builders.commands import commands
from builders.host import simulate
from xtrace.analysis.comparison.figures import BY_NAME
from xtrace.analysis.report.build import SECTIONS
from xtrace.cli.commands import diff
from xtrace.cli.main import main
from xtrace.cli.render.live import SORTS
from xtrace.probes.selection.event_masks import NAMES

#: Options with the same name that the commands use differently; --help says how.
OF_EACH_COMMAND = {
    "--csv": "report writes one file per table into a folder, sites prints its only table",
    "--domain": "record samples it with xenctx; diff also accepts host",
    "--duration": "how long calibrate measures, how long record records",
    "--force": "record replaces a capture, calibrate a file",
    "--output": "record writes a folder, calibrate a file",
    "--sort": "a column of top, an order of diff",
}


def options() -> dict[str, dict[str, Any]]:
    """Return each command's parameter, by long option name and by command."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, command in commands().items():
        for parameter in command.params:
            for option in (*parameter.opts, *parameter.secondary_opts):
                if option.startswith("--") and not parameter.hidden:
                    found[option][name] = parameter
    return found


def test_shared_options_are_the_same_in_every_command() -> None:
    shared = {name: by_command for name, by_command in options().items() if len(by_command) > 1}
    assert {"--cpu-hz", "--domain", "--from", "--json", "--pcpu", "--to", "--vcpu", "--xen"} <= set(shared)
    for name, by_command in shared.items():
        if name in OF_EACH_COMMAND:
            assert len({each.metavar for each in by_command.values()}) == 1 or name in (
                "--csv",
                "--output",
                "--sort",
            )
            continue
        texts = {(each.help, each.metavar, tuple(each.opts), each.type.name) for each in by_command.values()}
        if name == "--json":
            assert len({help_ for help_, *_ in texts}) == 2  # one object, or one per line
            continue
        assert len(texts) == 1, (name, texts)
    assert set(OF_EACH_COMMAND) <= set(shared)


@pytest.mark.parametrize("command", ["dump", "report"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--cpu-hz", "12"),
        ("--cpu-hz", "fast"),
        ("--vcpu", "v3"),
        ("--domain", "web"),
        ("--from", "soon"),
        ("--to", "1 hour"),
        ("--xen", "newest"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_option(
    command: str, option: str, text: str, made: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([command, option, text, made]) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert option in err
    assert text in err
    # It says what is right.
    assert re.search(r"such as|between|expected one like|known from", err)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a short trace of a host."""
    path = tmp_path_factory.mktemp("made") / "made.bin"
    path.write_bytes(simulate(8, 2, [(0, 2, "pv"), (3, 1, "hvm")], 2_000_000).data)
    return str(path)


# --- completion --------------------------------------------------------------------------------


def completed(*words: str) -> list[str]:
    command = [sys.executable, "-P", "-c", "from xtrace.cli.start import main; main()"]
    typed = " ".join(["xtrace", *words])
    surroundings = {
        **os.environ,
        "_XTRACE_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("report", "--section", ""), SECTIONS),
        (("diff", "--metric", ""), BY_NAME),
        (("diff", "--sort", ""), [order.value for order in diff.Sort]),
        (("top", "--sort", ""), SORTS),
        (("dump", "--class", ""), NAMES),
        (("dump", "--event", "wak"), ["wake", "wake_to_switch"]),
    ],
)
def test_completion_offers_the_values(words: Sequence[str], values: Sequence[str]) -> None:
    assert sorted(completed(*words)) == sorted(values)


# --- old names of options ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (["record", "--event", "sched"], "--class"),
        (["record", "--pcpus", "0-1"], "--pcpu"),
        (["calibrate", "--seconds", "5"], "--duration"),
    ],
)
def test_an_old_name_still_works_and_names_the_new_one(
    arguments: list[str], new: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # After its options are parsed, each command fails for another reason.
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    arguments += ["--quick"] if arguments[0] == "calibrate" else []
    assert main(arguments) in (1, 2)
    first, last = capfd.readouterr().err.splitlines()
    assert f"{arguments[1]} is now {new}" in first
    assert "No such option" not in last


def test_help_does_not_show_old_names(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "--help"]) == 0
    out = capfd.readouterr().out
    assert "--pcpus" not in out
    assert "--pcpu " in out
