"""The host's facts, its clocks, and how emulation is detected."""

from __future__ import annotations

import time

import numpy as np
import pytest

from xtrace.probes.timing import clock, this_host
from xtrace.probes.timing.native import Native, cpuid
from xtrace.probes.timing.sandbox import filter_bytes
from xtrace.symbols.replay import timed_loop


def test_this_host() -> None:
    function = Native(timed_loop.cpuid_stub())
    vendor = b"".join(part.to_bytes(4, "little") for part in np.array(cpuid(function, 0))[[1, 3, 2]].tolist())
    assert vendor in (b"GenuineIntel", b"AuthenticAMD", b"HygonGenuine", b"CentaurHauls", b"  Shanghai  ")
    seen = this_host.signatures(function)
    facts = this_host.facts(seen)
    assert set(facts) == {"cpu_model", "microcode", "hypervisor", "kernel"}
    assert facts["kernel"].startswith("Linux ")
    assert "family" in facts["cpu_model"]
    assert all(name.isprintable() for name in seen)


@pytest.mark.parametrize(
    ("model", "seen", "words"),
    [
        ("Intel(R) Xeon(R)", ("KVMKVMKVM",), ""),
        ("Intel(R) Xeon(R)", ("XenVMMXenVMM", "TCGTCGTCGTCG"), "TCGTCGTCGTCG"),
        ("QEMU TCG CPU version 2.5+", (), "QEMU TCG"),
        ("QEMU Virtual CPU version 2.5+", ("XenVMMXenVMM",), "QEMU Virtual CPU"),
    ],
)
def test_signs_of_emulation(model: str, seen: tuple[str, ...], words: str) -> None:
    found = this_host.emulation({"cpu_model": model}, seen)
    assert (words in found) if words else not found


def test_the_clock_runs() -> None:
    function = Native(timed_loop.clock_stub())
    begin = clock.reading(function)
    time.sleep(0.02)
    end = clock.reading(function)
    hz, error = clock.rate_hz(begin, end)
    assert 1e8 < hz < 2e10
    assert 0 < error < hz


def test_the_quantum_divides_all_differences() -> None:
    assert clock.quantum_cycles(np.cumsum(np.array([26, 52, 26, 0, 78, 26 * 91]))) == 26
    assert clock.quantum_cycles(np.cumsum(np.array([26, 52, 27]))) == 1
    assert clock.quantum_cycles(np.zeros(4, np.int64)) == 1


def test_the_filter_is_accepted_by_the_kernel() -> None:
    blob = filter_bytes(0x5800_0080)
    count = int.from_bytes(blob[:2], "little")
    assert len(blob) == 16 + 8 * count
    assert int.from_bytes(blob[8:16], "little") == 0x5800_0090
    lines = [blob[16 + 8 * n : 24 + 8 * n] for n in range(count)]
    # If the last comparison fails, it falls through to the next-to-last line, which kills.
    assert lines[-2][4:] == bytes(4)
    assert lines[-1][4:] == (0x7FFF_0000).to_bytes(4, "little")
    for number, line in enumerate(lines):
        if line[0] == 0x15:
            assert number + 1 + max(line[2], line[3]) < count
