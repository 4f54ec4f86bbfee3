"""Facts about this machine: its kernel, its processes, and that it is not a dom0."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, trace_buffers


def test_kernel_facts() -> None:
    facts = dom0.kernel_facts()
    assert len(facts["boot_id"]) == 36
    assert facts["clocksource"] in facts["clocksources"]
    assert facts["cpus"] >= 1


def test_this_machine_is_not_a_dom0() -> None:
    reason = dom0.why_no_dom0()
    if not reason:
        pytest.skip("this is a dom0")
    with pytest.raises(TraceError, match=r"libxenctrl|Xen"):
        trace_buffers.switch_off()
    with pytest.raises(TraceError, match=r"libxenctrl|Xen"):
        trace_buffers.is_sized()


def test_processes_by_name() -> None:
    assert dom0.running("no-such-process") == []
    child = subprocess.Popen(["sleep", "60"])
    while child.pid not in dom0.running("sleep"):
        time.sleep(0.01)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    # It is a zombie: its parent has not waited for it yet.
    assert child.pid not in dom0.running("sleep")
    child.wait()
