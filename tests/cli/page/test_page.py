"""What every page is: one file, with a policy, without scripts, below 1 MB, readable without its drawings."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import made_pages, read_page
from builders.big_host import PCPUS, VCPUS, big_report
from builders.hostile import NAMES, hostile_report
from builders.made_pages import FENCED, IMAGE, OTHER_IMAGE, SAMPLES
from builders.made_sites import fence, site, table
from builders.read_page import parsed
from xtrace.cli.main import main
from xtrace.cli.page.document import _least_bytes
from xtrace.cli.page.origin import MOST_HASHED, Hashing
from xtrace.cli.page.report_page import report_page
from xtrace.cli.page.write import PageFile, page_text
from xtrace.symbols.listing.export import json_object

BUNDLED = SAMPLES / "xen417-pv-all.bin.xz"
PAGES: dict[str, Callable[[], str]] = {
    "bundled": lambda: made_pages.report(BUNDLED).text,
    "cost": lambda: made_pages.cost().text,
    "diff": lambda: made_pages.diff().text,
    "two images": lambda: made_pages.sites(IMAGE, OTHER_IMAGE).text,
    "big": big_report,
    "hostile": hostile_report,
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_one_small_file_with_a_policy(name: str) -> None:
    text = PAGES[name]()
    assert len(text.encode()) < 1_000_000
    page = parsed(text)
    policy = page.one("meta", http_equiv="Content-Security-Policy").attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    style = page.one("style").text
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert not re.search(r"@import|url\((?!#)", style)
    for element in page.all():
        assert element.name not in ("script", "iframe", "object", "embed", "img", "base", "form")
        for key, value in element.attributes.items():
            assert not key.startswith("on")
            assert key != "style"
            if key in ("href", "src", "xlink:href", "action"):
                assert value.startswith(("#", "data:")), (element.name, value[:80])


@pytest.mark.parametrize("name", PAGES)
def test_each_figure_has_a_title_a_description_and_a_table(name: str) -> None:
    page = parsed(PAGES[name]())
    figures = list(page.all("figure"))
    assert figures
    for figure in figures:
        title, text = figure.attributes["aria-labelledby"], figure.attributes["aria-describedby"]
        assert figure.one(id=title).text
        assert len(figure.one(id=text).text) > 40
        # The map of sites has its table in a section of its own.
        assert list(figure.all("table")) or list(page.one("section", id="sites").all("table"))
        for drawing in figure.all("svg"):
            own = {"aria-hidden", "role", "viewbox", "x"}  # hidden, an image, or a part of one
            assert own & drawing.attributes.keys(), drawing
    ids = [element.attributes["id"] for element in page.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    anchors = {
        element.attributes["href"][1:]
        for element in page.all("a")
        if element.attributes["href"].startswith("#")
    }
    assert anchors <= set(ids)


def test_a_host_of_130_pcpus_and_400_vcpus_stays_readable() -> None:
    text = big_report()
    page = parsed(text)
    assert VCPUS >= 400
    facts = {each.one("dt").text: each for each in page.one("dl", class_="facts").all("div")}
    assert next(facts["pCPUs"].all("dd")).text == str(PCPUS)
    for figure in page.all("figure"):
        assert len(list(figure.one("figcaption").all("li"))) <= 8
        for rows in figure.all("tbody"):
            assert len(list(rows.all("tr"))) <= 512
    described = page.one("p", id="timeline-text").text
    drawn = len(list(page.one("div", class_="timeline").all("svg", class_="lane"))) - 2
    assert f"{VCPUS - drawn:,} vCPUs" in described


def test_a_page_is_below_1_mb_for_any_host() -> None:
    """Hundreds of pCPUs, vCPUs, domains and rows, all as noisy as can be, and long names for all of them."""
    found = copy.deepcopy(made_pages.report(BUNDLED).json)
    chance = random.Random(2)
    time = found["over_time"]
    lengths = time["length_cycles"] = [1 << 20] * 512
    time["begin_cycles"] = [slot << 20 for slot in range(512)]

    def noise(*names: str) -> dict[str, list[int]]:
        return {
            f"{name}_cycles": [chance.randrange(length // len(names)) for length in lengths] for name in names
        }

    time["pcpus"] = [{"pcpu": number, **noise("running", "idle", "lost", "unknown")} for number in range(700)]
    time["vcpus"] = [
        {
            "domain": number // 4,
            "vcpu": number % 4,
            **noise("running", "waiting", "blocked", "offline", "unknown"),
        }
        for number in range(1200)
    ]
    time["wake_to_running"] = [
        {"least_cycles": 1 << power, "counts": [chance.randrange(999) for _ in lengths]}
        for power in range(1, 40)
    ]
    found["trace"]["domains"] = {str(number): "n" * 5000 for number in range(300)}
    for name in ("wakes", "wakers", "upcalls", "vcpu_states", "irqs", "pcpus"):
        rows = found["tables"][name]["rows"]
        found["tables"][name]["rows"] = [
            {
                **rows[number % len(rows)],
                **({"domain": number // 4, "vcpu": number % 4} if "vcpu" in rows[0] else {}),
            }
            for number in range(3000)
        ]
    one = found["distributions"][0]
    found["distributions"] = [
        {**one, "domain": number, "upto_counts": [count + number for count in one["upto_counts"]]}
        for number in range(512)
    ]
    found["findings"] = found["findings"] * 400
    text = page_text(
        lambda most: report_page(found, ["x" * 9000] * 50, "y" * 9000, most),
        {"report.json": found},
        Hashing([]).origin(),
    )
    assert 300_000 < len(text.encode()) < 1_000_000
    parsed(text)


def test_hostile_names_are_text_and_visible() -> None:
    text = hostile_report()
    page = parsed(text)
    shown = page.text
    assert "<script>alert(1)</script>" in shown
    assert "{{ 7*7 }}" in shown
    assert "x" * 1001 not in shown
    outside = shown.replace(page.one("style").text, "")
    strange = {c for c in outside if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")} - {"\n"}
    assert strange == set()
    assert "\\x1b[31mred" in shown
    assert "\\u202e" in shown
    assert "\\udcff" in shown
    names = {element.name for element in page.all()}
    assert names <= {
        "html", "head", "meta", "title", "link", "style", "body", "svg", "defs", "pattern", "rect", "a",
        "header", "p", "h1", "h2", "h3", "dl", "div", "dt", "dd", "section", "ol", "li", "span", "pre",
        "code", "nav", "ul", "main", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr",
        "th", "td", "bdi", "details", "summary", "line", "path", "text", "circle", "input", "label",
    }  # fmt: skip
    for element in page.all("svg"):
        assert "onload" not in element.attributes


def test_hostile_names_in_an_image(tmp_path: Path) -> None:
    sites = [
        site(name, 0x10 * number, fences=(fence(via=name),), text=name)
        for number, name in enumerate(NAMES, 1)
    ]
    found = json_object(table(*sites), sites)
    target = tmp_path / "sites.html"
    PageFile(target, []).write_sites(found)
    page = parsed(target.read_text("utf-8"))
    assert "<script>alert(1)" in page.text
    assert not list(page.all("script"))
    assert len(target.read_bytes()) < 1_000_000


def test_hostile_file_names(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / os.fsdecode(b"<b>\xff'\"&.bin.xz")
    path.symlink_to(FENCED)
    target = tmp_path / "page.html"
    assert main(["report", "--html", str(target), str(path)]) == 0
    assert capfd.readouterr().out == ""
    page = parsed(target.read_text("utf-8"))
    assert "<b>\\udcff'\"&.bin.xz" in page.one("h1").text
    assert not list(page.all("b"))


def test_the_page_says_how_it_was_made(tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    words = ["report", "--html", str(target), "--section", "delivery", str(BUNDLED)]
    subprocess.run([sys.executable, "-P", "-m", "xtrace", *words], check=True, capture_output=True)
    page = parsed(target.read_text("utf-8"))
    section = page.one("section", id="reproduce")
    assert section.one("pre").text == f"xtrace {' '.join(words)}"
    assert hashlib.sha256(BUNDLED.read_bytes()).hexdigest() in section.text
    assert f"{BUNDLED.stat().st_size:,} bytes" in section.text


def test_of_a_great_file_the_first_part_is_hashed(tmp_path: Path) -> None:
    path = tmp_path / "great.bin"
    with path.open("wb") as file:
        file.write(b"begin")
        file.truncate(MOST_HASHED + 1)
    (found,) = Hashing([path]).origin().files
    expected = hashlib.sha256(b"begin" + bytes(MOST_HASHED - 5)).hexdigest()
    assert found.said == f"{MOST_HASHED + 1:,} bytes, SHA-256 of the first 64 MiB (head -c 64M) {expected}"


def test_a_fifo_is_not_read_for_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    (found,) = Hashing([path]).origin().files
    assert found.said == "not a file: no hash"


def test_data_that_do_not_fit_are_left_out_with_a_line() -> None:
    page = parsed(big_report())
    assert read_page.data_of(page) == {}
    assert "greater than 1 MB" in page.one("section", id="reproduce").text


def test_json_and_page_in_one_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "page.html"
    assert main(["report", "--json", "--html", str(target), str(BUNDLED)]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert read_page.data_of(parsed(target.read_text("utf-8")))["report.json.gz"] == printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "--html", "{folder}"], "is a folder"),
        (["report", "--html", "{folder}/none/page.html"], "does not exist"),
        (["report", "--only-findings", "--html", "-"], "prints no tables"),
        (["sites", "--html", "-", "--json", str(IMAGE)], "choose one"),
        (["sites", "--html", "-", "--explain", "x", str(IMAGE)], "prints text only"),
    ],
)
def test_what_cannot_be_written_is_said_at_once(
    arguments: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main([each.replace("{folder}", str(tmp_path)) for each in arguments])
    err = capfd.readouterr().err
    assert code in (1, 2)
    assert said in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    target.write_text("the old one")
    monkeypatch.setattr(Path, "replace", _full)
    assert main(["report", "--html", str(target), str(BUNDLED)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert target.read_text() == "the old one"


def _full(self: Path, target: Path) -> None:
    raise OSError(28, "No space left on device", str(target))


def test_what_a_report_takes_is_estimated_from_below() -> None:
    """So that the text of a report that cannot be in the page is not made."""
    slots = [0] * 50
    row = {"pcpu": 0, "running_cycles": slots, "idle_cycles": slots, "lost_record_counts": slots}
    found = {"tables": {"a": {"rows": [{"x": 1, "y": 2}] * 10}, "b": {"rows": []}}, "over_time": None}
    assert 0 < _least_bytes(found) <= len(json.dumps(found, separators=(",", ":")))
    with_time = found | {"over_time": {"pcpus": [row] * 200, "vcpus": []}}
    assert 200 * 100 * 2 <= _least_bytes(with_time) <= len(json.dumps(with_time, separators=(",", ":")))
    assert _least_bytes([1]) == 0
