"""Domains, vCPUs and pCPUs as users name them."""

from __future__ import annotations

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.selection.vcpus import Pcpus, Vcpu, domain_ids, id_of
from xtrace.probes.xen_abi import IDLE_DOMAIN

NAMES = {0: "Domain-0", 3: "web", 7: "db", 9: "web", 12: "d3v0"}


@pytest.mark.parametrize(("text", "vcpu"), [("0", Vcpu(0)), ("d3v12", Vcpu(12, 3)), ("d0v0", Vcpu(0, 0))])
def test_vcpus(text: str, vcpu: Vcpu) -> None:
    assert Vcpu.parse(text) == vcpu


@pytest.mark.parametrize("text", ["", "v3", "d3", "3v0", "d3v", "-1", "d3v0v1", "٣"])
def test_what_is_not_a_vcpu(text: str) -> None:
    with pytest.raises(ValueError, match="not a vCPU"):
        Vcpu.parse(text)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0,4-7", {0, 4, 5, 6, 7}),
        ("3", {3}),
        ("0xf1", {0, 4, 5, 6, 7}),
        ("0XF", {0, 1, 2, 3}),
        ("5-4,1", {1}),
    ],
)
def test_pcpus(text: str, numbers: set[int]) -> None:
    assert (set(Pcpus.parse(text).numbers), Pcpus.parse(text).text) == (numbers, text)


def test_pcpus_that_no_host_has_take_no_memory() -> None:
    assert Pcpus.parse("0-99999").numbers == Pcpus.parse("all").numbers == set(range(MAX_PCPUS))


@pytest.mark.parametrize("text", ["", "1-x", "1,", "-1", "0x", "0x0", "4-3", "a", "1--2", "0x" + "f" * 2000])
def test_what_is_not_a_list_of_pcpus(text: str) -> None:
    with pytest.raises(ValueError, match="pCPU"):
        Pcpus.parse(text)


def test_domains_by_id_and_name() -> None:
    assert domain_ids([3, "7", "d7", "d9", "idle", "db"], lambda: NAMES, "x") == [3, 7, 9, IDLE_DOMAIN]
    # A domain that was rebooted while the trace was made has two ids.
    assert domain_ids(["web"], lambda: NAMES, "x") == [3, 9]
    assert domain_ids(["d3v0"], lambda: NAMES, "x") == [12]
    assert domain_ids(["99"], dict, "x") == [99]


def test_a_name_that_is_not_known_shows_those_that_are() -> None:
    with pytest.raises(
        TraceError, match=r"^x: no domain is called 'wbe'; it has Domain-0 \(d0\), web \(d3\)"
    ):
        domain_ids(["wbe"], lambda: NAMES, "x")
    with pytest.raises(TraceError, match="give an id"):
        domain_ids(["web"], dict, "x")


@pytest.mark.parametrize("text", ["65536", "d99999", "99999999999"])
def test_an_id_that_no_domain_has(text: str) -> None:
    if len(text) > 10:
        assert id_of(text) is None  # it can only be a name
        return
    with pytest.raises(TraceError, match="at most 65535"):
        id_of(text)
