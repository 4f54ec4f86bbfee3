"""The build backend (PEP 517): setuptools, which also compiles the hot loops, and asks pip for a linker.

The wheel is for every Python 3 on one type of processor: the library of compiled loops uses nothing of
Python's.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, ClassVar

from compile_loops import own_linker
from setuptools import Command, build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.errors import ExecError

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

_PLACE = Path("probes", "compiled")


def get_requires_for_build_wheel(settings: Any = None) -> list[str]:
    """Return what a build needs beyond pyproject.toml: a linker, if this machine has none."""
    needed: list[str] = build_meta.get_requires_for_build_wheel(settings)
    if not own_linker():
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        needed += project["optional-dependencies"]["linker"]
    return needed


def get_requires_for_build_editable(settings: Any = None) -> list[str]:
    """Return the same for an editable installation."""
    return get_requires_for_build_wheel(settings)


class CompileLoops(Command):  # type: ignore[misc]
    """Compile the loops into the build folder, or in place for an editable installation."""

    description = "compile the hot loops"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        """Set the attributes that setuptools expects of a part of ``build``."""
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        """Take the build folder from ``build``."""
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Compile, in a process of its own, whose numba has seen no other settings."""
        program = Path(__file__).with_name("compile_loops.py")
        if subprocess.run([sys.executable, program, self._output()], check=False).returncode:
            raise ExecError("the loops could not be compiled")

    def get_source_files(self) -> list[str]:
        """Return this folder's programs, which the source distribution needs besides the packages."""
        return [os.path.relpath(path) for path in sorted(Path(__file__).parent.glob("*.py"))]

    def get_outputs(self) -> list[str]:
        """Return the library."""
        return [os.fspath(self._output())]

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing: no file of the checkout is the library."""
        return {}

    def _output(self) -> Path:
        folder = Path() if self.editable_mode else Path(self.build_lib or "", "xtrace")
        return (folder / _PLACE / f"loops.{platform.machine()}.so").resolve()


class WheelForAnyPython(bdist_wheel):  # type: ignore[misc]
    """A wheel for one type of processor and every Python 3."""

    def initialize_options(self) -> None:
        """Have setuptools treat the library as it does an extension module: it makes the wheel not pure."""
        super().initialize_options()
        self.distribution.has_ext_modules = lambda: True

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag: of what setuptools says, only the platform applies."""
        return "py3", "none", super().get_tag()[2]


build.sub_commands = [*build.sub_commands, ("compile_loops", None)]
_COMMANDS = {"compile_loops": CompileLoops, "bdist_wheel": WheelForAnyPython}
