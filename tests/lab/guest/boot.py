"""Boot the guest as the initial domain of Xen in QEMU's software emulation, its console on the serial line.

It needs no other domain: this tests entry, hypercalls, events, masks and counters within seconds.
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
    """The guest did not run to its end."""


def boot(xen: Path, image: Path, knobs: str, answers: Sequence[tuple[str, str]] = ()) -> str:
    """Run a guest to its end and return the output of the serial line.

    Args:
        xen: the hypervisor's ELF file, uncompressed.
        image: the guest's ELF file.
        knobs: the guest's command line.
        answers: (text to wait for on the serial line, text to type then), in order.

    Raises:
        BootError: it crashed, or did not end within LIMIT_S; has the end of the output.
    """
    # SMAP and XSAVE fail under emulation: dom0 crashes early, or its data is corrupted.
    command = [QEMU, "-machine", "q35", "-accel", "tcg", "-cpu", "max,-smap,-xsave", "-smp", "1", "-m", "256"]
    command += ["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio", "-kernel", str(xen)]
    # No comma in the module's words: Xen takes it for the end of a module.
    command += ["-append", _XEN_OPTIONS, "-initrd", f"{image} {knobs}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        try:
            return _talk(qemu, list(answers)).decode("ascii", "replace")
        finally:
            # After the guest's power-off Xen halts the machine, but QEMU keeps running.
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
    why = "QEMU ended before the guest" if time.monotonic() < end else f"it did not end within {LIMIT_S} s"
    raise BootError(f"{why}; last output of the serial line:\n{tail}")


def reports(output: str) -> list[dict[str, int]]:
    """Return the counters that a guest printed on request, and last those of its end."""
    return [json.loads(text) for text in _COUNTERS.findall(output)]


def upcalls(output: str) -> list[tuple[int, int]]:
    """Return the TSC at begin and end of each upcall that a guest logged."""
    return [(int(begin), int(end)) for begin, end in _UPCALL.findall(output)]
