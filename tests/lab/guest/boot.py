"""Boot the guest as the initial domain of Xen in QEMU's software emulation, its console on the serial line.

It needs no other domain: this proves entry, hypercalls, events, masks and counters in seconds.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

QEMU = "qemu-system-x86_64"
LIMIT_S = 90
_END = b"xtrace-guest: done"
_SAID_BYTES = 4000
_COUNTERS = re.compile(r"^xtrace-guest: counters (\{.*\})\r?$", re.MULTILINE)
_UPCALL = re.compile(r"^xtrace-guest: upcall (\d+) (\d+) \d+\r?$", re.MULTILINE)
_XEN_OPTIONS = "console=com1 com1=115200,8n1 dom0_mem=64M dom0_max_vcpus=1"


class BootError(RuntimeError):
    """The guest did not come to its end."""


def boot(xen: Path, image: Path, knobs: str, answers: Sequence[tuple[str, str]] = ()) -> str:
    """Run a guest to its end and return what the serial line said.

    Args:
        xen: the hypervisor's ELF file, unpacked.
        knobs: the guest's command line.
        answers: (what is waited for on the serial line, what is typed then), in turn.

    Raises:
        BootError: it crashed, or did not end within LIMIT_S; with the last of what it said.
    """
    # SMAP and XSAVE fail under emulation: with them dom0 dies early, or is damaged.
    command = [QEMU, "-machine", "q35", "-accel", "tcg", "-cpu", "max,-smap,-xsave", "-smp", "1", "-m", "256"]
    command += ["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", str(xen)]
    # Xen takes a comma for the end of a module.
    command += ["-append", _XEN_OPTIONS, "-initrd", f"{image} {knobs}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        try:
            return _talk(qemu, list(answers)).decode("ascii", "replace")
        finally:
            # Xen halts the machine behind a guest that powered off, and QEMU goes on.
            qemu.kill()


def _talk(qemu: subprocess.Popen[bytes], answers: list[tuple[str, str]]) -> bytes:
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    said, heard = b"", 0
    end = time.monotonic() + LIMIT_S
    with selectors.DefaultSelector() as selector:
        selector.register(qemu.stdout, selectors.EVENT_READ)
        while time.monotonic() < end:
            if not selector.select(timeout=1):
                continue
            piece = os.read(qemu.stdout.fileno(), 65536)
            said += piece
            while answers and (place := said.find(answers[0][0].encode(), heard)) >= 0:
                heard = place + len(answers[0][0])
                qemu.stdin.write(answers.pop(0)[1].encode())
                qemu.stdin.flush()
            if _END in said:
                return said
            if not piece:
                break
    tail = said[-_SAID_BYTES:].decode("ascii", "replace")
    why = "QEMU ended before the guest" if time.monotonic() < end else f"no end within {LIMIT_S} s"
    raise BootError(f"{why}; the serial line said:\n{tail}")


def reports(output: str) -> list[dict[str, int]]:
    """Return the counters that a guest printed: on request, and last at its end."""
    return [json.loads(text) for text in _COUNTERS.findall(output)]


def upcalls(output: str) -> list[tuple[int, int]]:
    """Return the TSC at begin and end of each upcall that a guest logged."""
    return [(int(begin), int(end)) for begin, end in _UPCALL.findall(output)]
