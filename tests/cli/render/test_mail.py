"""A report for a mail: 72 columns, fewer than 60 lines, ASCII; the same figures in Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builders.host import simulate
from builders.hostile import NAMES
from builders.hosts import DOMAINS
from oracle.reading import SAMPLES
from xtrace import __version__
from xtrace.cli.main import main
from xtrace.cli.render.report import mail
from xtrace.cli.render.report.mail import COLUMNS, LINES, Letter, mail_lines, markdown_lines


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main(["report", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_a_mail_has_what_a_maintainer_asks_for(sample: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--mail", str(sample))
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= COLUMNS
    text = "\n".join(lines)
    assert text.isascii()
    assert f"xtrace {__version__}, Python 3." in text
    assert re.search(r"^command +xtrace report --mail", text, re.MULTILINE)
    assert re.search(r"^covered +[\d.]+ s of ", text, re.MULTILINE)
    assert re.search(r"^d0v0 +[\d,]+ ", text, re.MULTILINE)
    assert re.search(r"^\d+ findings?$|^nothing out of the usual$", text, re.MULTILINE)


def test_both_have_the_figures_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    wakes = {"d0v0": "1,209", "d0v1": "1,305", "d1v0": "618", "d2v0": "268"}
    mailed, marked = printed(capsys, "--mail"), printed(capsys, "--markdown")
    for vcpu, count in wakes.items():
        assert any(line.split()[:2] == [vcpu, count] for line in mailed)
        assert any(line.startswith(f"| {vcpu} | {count} |") for line in marked)


def test_a_host_with_many_vcpus_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.bin"
    domains = [(number, 4, "pv") for number in range(24)]
    path.write_bytes(simulate(1, 8, domains, 30_000_000).data)  # type: ignore[arg-type]
    lines = printed(capsys, "--mail", "--cpu-hz", "2.6G", str(path))
    assert len(lines) <= LINES
    assert re.fullmatch(r"\d+ quieter vCPUs", lines[-1])
    assert DOMAINS


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_hostile_names(name: str) -> None:
    said = Letter([("trace", name)] * 20, [f"note: {name}"] * 30, [("d0v0", *["1"] * 6)] * 80, name)
    lines = list(mail_lines(said))
    assert len(lines) <= LINES
    assert all(line.isascii() and line.isprintable() and len(line) <= COLUMNS for line in lines)


def test_markdown_is_text() -> None:
    said = Letter([("trace", "<b>a|b</b> `c` @x [d](e)")], [], [("d0v0", "*1*")], "x")
    text = "\n".join(markdown_lines(said))
    assert "\\<b\\>a\\|b\\</b\\> \\`c\\` @\u200bx \\[d\\](e)" in text
    assert "\\*1\\*" in text


def test_one_form_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--mail", "--json"]) == 2
    assert "choose one of" in capsys.readouterr().err
    assert mail.COLUMNS == 72
