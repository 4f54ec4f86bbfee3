"""OpenMetrics and Prometheus text, read by prometheus-client's parsers; names and units as promtool's."""

from __future__ import annotations

import re
import socket
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import parser as plain_parser
from prometheus_client.openmetrics import parser as open_parser

from builders.hostile import NAMES
from xtrace import samples
from xtrace.analysis import analyse, build_report
from xtrace.cli.live.feed import Watched, opened
from xtrace.cli.live.listen import Address, address_of, listening
from xtrace.cli.live.openmetrics import BOUNDS_S, Totals, escaped, exposition
from xtrace.cli.main import main

PATH = str(samples.path())
PARSERS: list[tuple[bool, Callable[[str], Any]]] = [
    (True, open_parser.text_string_to_metric_families),
    (False, plain_parser.text_string_to_metric_families),
]


@pytest.fixture(scope="module")
def totals() -> Totals:
    found = Totals()
    with opened(PATH, None) as feed:
        watched = Watched(feed, 1.0, is_live=False)
        for period in watched:
            if period is not None:
                found.add(watched, period)
    return found


def samples_of(text: str, parse: Callable[[str], Any]) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for family in parse(text):
        for sample in family.samples:
            found[sample.name][tuple(sample.labels.values())] = sample.value
    return found


@pytest.mark.parametrize(("is_open", "parse"), PARSERS, ids=["openmetrics", "prometheus"])
def test_counters_are_those_of_the_report(totals: Totals, is_open: bool, parse: Callable[[str], Any]) -> None:
    found = samples_of(exposition(totals, is_open=is_open), parse)
    report = build_report(analyse(PATH))
    wakes = report.tables["wakes"]
    assert found["xtrace_wakes_total"] == {
        (str(row.domain), str(row.vcpu)): row.wake_count for row in wakes.itertuples()
    }
    assert found["xtrace_lost_records_total"] == {(): 0}
    running = sum(found["xtrace_running_seconds_total"].values())
    spent = report.tables["vcpus"]["running_cycles"] if "vcpus" in report.tables else None
    assert 0 < running < 2 * report.trace["span_ns"] / 1e9
    assert spent is None or running <= spent.sum() / report.hz  # type: ignore[operator]


@pytest.mark.parametrize(("is_open", "parse"), PARSERS, ids=["openmetrics", "prometheus"])
def test_histograms_are_whole(totals: Totals, is_open: bool, parse: Callable[[str], Any]) -> None:
    found = samples_of(exposition(totals, is_open=is_open), parse)
    assert totals.hz is not None
    for key, figures in totals.vcpus.items():
        labels = (str(key >> 16), str(key & 0xFFFF))
        buckets = [
            found["xtrace_wake_to_running_seconds_bucket"][*labels, f"{bound:g}"] for bound in BOUNDS_S
        ]
        assert buckets == sorted(buckets)
        count = found["xtrace_wake_to_running_seconds_count"][labels]
        assert found["xtrace_wake_to_running_seconds_bucket"][*labels, "+Inf"] == count
        assert count == sum(figures.wake_to_running.buckets.values())
        total = found["xtrace_wake_to_running_seconds_sum"][labels]
        assert total / count <= figures.wake_to_running.greatest / totals.hz
        p50 = figures.wake_to_running.quantile(0.5) / totals.hz
        below = sum(value for bound, value in zip(BOUNDS_S, buckets, strict=True) if bound < p50)
        assert (
            below == 0
            or max(value for bound, value in zip(BOUNDS_S, buckets, strict=True) if bound < p50)
            <= count / 2 + 1
        )


def test_names_and_units_are_as_promtool_wants_them(totals: Totals) -> None:
    """The rules of promtool check metrics: base units last, no type in the name, help for each, one case."""
    parse: Callable[[str], Any] = open_parser.text_string_to_metric_families
    families = list(parse(exposition(totals)))
    assert len({family.name for family in families}) == len(families) > 12
    for family in families:
        assert re.fullmatch(r"xtrace(_[a-z]+)+", family.name)
        assert family.documentation
        assert not re.search(r"counter|gauge|histogram|summary|_total|_count|_sum|_bucket", family.name)
        assert not re.search(r"milli|micro|nano|_ns|_ms|_us|minutes|hours|bits|kilo", family.name)
        assert ("seconds" in family.name) == family.name.endswith("_seconds") == (family.unit == "seconds")
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total")
            assert set(sample.labels) <= {"domain", "vcpu", "le", "name"}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize(("is_open", "parse"), PARSERS, ids=["openmetrics", "prometheus"])
def test_a_hostile_name_is_the_value_of_a_label(
    name: str, is_open: bool, parse: Callable[[str], Any]
) -> None:
    text = exposition(Totals(names={7: name}), is_open=is_open)
    assert text.count("\n") == len(text.splitlines())
    found = samples_of(text, parse)["xtrace_domain_info"]
    ((domain, value),) = found
    assert domain == "7"
    assert value == escaped(name).replace('\\"', '"').replace("\\\\", "\\")


def test_a_trace_whose_rate_is_not_known_has_no_times() -> None:
    assert "seconds" not in exposition(Totals())


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("9717", Address("127.0.0.1", 9717)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
        ("[::1]:80", Address("::1", 80)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "host:", "70000", "::1:80", "a b:1"])
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        address_of(text)


def test_a_reader_gets_the_last_figures_in_the_form_it_asks_for(totals: Totals) -> None:
    with listening(Address("127.0.0.1", 0)) as (served, url):
        served.show(totals)
        for accept, is_open in (("application/openmetrics-text; version=1.0.0", True), ("*/*", False)):
            request = urllib.request.Request(url, headers={"Accept": accept})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.read().decode() == exposition(totals, is_open=is_open)
                assert ("openmetrics" in answer.headers["Content-Type"]) == is_open


def test_a_client_that_hangs_holds_up_nobody(totals: Totals) -> None:
    """The figures go on being replaced, and the next client is answered after the limit."""
    with listening(Address("127.0.0.1", 0)) as (served, url):
        port = int(url.rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port)) as hanging:
            hanging.send(b"GET /metrics HTTP/1.1\r\n")
            done = threading.Event()

            def show() -> None:
                served.show(totals)
                done.set()

            threading.Thread(target=show).start()
            assert done.wait(10)
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert b"xtrace_wakes_total" in answer.read()


def test_an_address_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["top", "--listen", str(port), "-i", PATH]) == 1
        assert f"127.0.0.1:{port}: cannot listen there: Address already in use" in capsys.readouterr().err


def test_stat_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stat", "--openmetrics", "-i", PATH]) == 0
    found = samples_of(capsys.readouterr().out, open_parser.text_string_to_metric_families)
    assert sum(found["xtrace_wakes_total"].values()) == 3400
