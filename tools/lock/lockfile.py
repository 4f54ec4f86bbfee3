"""What a lock file has: pins with hashes, for some targets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from packaging.markers import Marker, default_environment

FOLDER = Path(__file__).resolve().parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")


class Target(NamedTuple):
    """A version of CPython and a type of processor, on Linux with glibc."""

    python: str
    machine: str

    def has(self, marker: str | None) -> bool:
        """Return whether a marker (PEP 508) is true there."""
        environment = {
            **default_environment(),
            "implementation_name": "cpython", "platform_python_implementation": "CPython",
            "os_name": "posix", "platform_system": "Linux", "sys_platform": "linux",
            "platform_machine": self.machine, "python_version": self.python,
            "python_full_version": f"{self.python}.0",
        }  # fmt: skip
        return marker is None or Marker(marker).evaluate(environment)


TARGETS = tuple(Target(python, machine) for python in PYTHONS for machine in MACHINES)


class Pin(NamedTuple):
    """One version of a package: its marker, and the sha256 of each file that may be installed."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]

    def lines(self) -> str:
        """Return it as in a file."""
        name = f"{self.name}=={self.version}{f' ; {self.marker}' if self.marker else ''}"
        return " \\\n    ".join([name, *(f"--hash=sha256:{digest}" for digest in self.hashes)]) + "\n"

    def constraint(self) -> str:
        """Return it without hashes."""
        return self.lines().partition(" \\\n")[0]


_PIN = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>[\w.+!]+)(?: ; (?P<marker>[^\\\n]+?))?"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def read(text: str) -> list[Pin]:
    """Return the pins of a lock file's text.

    Raises:
        ValueError: something in it is neither a comment nor a pin with hashes.
    """
    body = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    found = list(_PIN.finditer(body))
    if "".join(match[0] for match in found) != body:
        raise ValueError("a lock file has something that is neither a comment nor a pin with hashes")
    return [
        Pin(one["name"], one["version"], one["marker"], tuple(re.findall("[0-9a-f]{64}", one["hashes"])))
        for one in found
    ]


def of(name: str) -> list[Pin]:
    """Return the pins of the file with this name, without its suffix."""
    return read((FOLDER / f"{name}.txt").read_text())
