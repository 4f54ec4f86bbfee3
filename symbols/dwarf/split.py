"""Find and read split DWARF: the types of a unit that are in a .dwo file beside the image.

The image keeps a skeleton of each unit, with its lines and the name of the .dwo file (gcc -gsplit-dwarf).

Source: DWARF 5 section 7.3.2 (split DWARF object files), GCC's DebugFission.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xtrace.symbols.dwarf.forms import AT
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError, file_sections
from xtrace.symbols.dwarf.units import Die, Units
from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.image import Image, elf_file

_DWO_NAMES = (AT.get("dwo_name", 0x76), AT.get("GNU_dwo_name", 0x2130))
#: The largest kernels have some 5,000 units.
_MOST_FILES = 10_000


@dataclass(slots=True)
class Split:
    """The .dwo files of an image.

    Attributes:
        names: of .dwo files, with the folder in which they were made.
        absent: files that were not found or cannot be read, with the reason for the first.
    """

    image: Image
    names: list[tuple[str, str]]
    absent: list[str] = field(default_factory=list)

    def sections(self) -> Iterator[DebugSections]:
        """Yield the sections of each .dwo file that is found."""
        for folder, name in self.names:
            try:
                yield self._sections(folder, name)
            except (OSError, ImageError, DwarfError) as error:
                self.absent.append(f"{shown(name)}: {error}")

    def _sections(self, folder: str, name: str) -> DebugSections:
        beside = Path(self.image.path).parent
        path = next(
            (
                place
                for place in (Path(folder, name), beside / name, beside / Path(name).name)
                if place.is_file()
            ),
            None,
        )
        if path is None:
            raise DwarfError("not found")
        data = map_file(str(path))
        sections = file_sections(data, elf_file(data, str(path)), bits=self.image.bits)
        if sections is None:
            raise DwarfError("has no .debug_info.dwo")
        return sections

    def note(self) -> str:
        """Return what is missing, and how to make it usable; "" if all files were read."""
        if not self.absent:
            return ""
        package = Path(f"{self.image.path}.dwp")
        hint = "keep the .dwo files where they were made or beside the image, or build without -gsplit-dwarf"
        if package.is_file():
            hint = f"{shown(package.name)} is not read: {hint}"
        return (
            f"split DWARF: {len(self.absent):,} of {len(self.names):,} .dwo files are missing "
            f"({self.absent[0]}); {hint}"
        )


def split_of(image: Image, units: Units) -> Split:
    """Return the .dwo files that the skeleton units of an image name."""
    names: dict[tuple[str, str], None] = {}
    for unit in units.all:
        try:
            name = _dwo_name(unit.top)
            if name:
                names.setdefault((unit.top.text(AT["comp_dir"]), name))
            unit.forget()
        except (DwarfError, IndexError):
            continue  # this unit's own damage is noted where it is read
        if len(names) >= _MOST_FILES:
            break
    return Split(image, list(names))


def _dwo_name(top: Die) -> str:
    return next((name for attribute in _DWO_NAMES if (name := top.text(attribute))), "")
