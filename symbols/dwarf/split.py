"""Find and read split DWARF: the types of a unit that are in a .dwo file beside the image, or in a package.

The image keeps a skeleton of each unit, with its lines and the name of the .dwo file (gcc -gsplit-dwarf).
The package IMAGE.dwp has all of them in one file (dwp, llvm-dwp).

Source: DWARF 5 section 7.3.2 (split DWARF object files), GCC's DebugFission.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xtrace.symbols.dwarf.forms import AT
from xtrace.symbols.dwarf.package import Package
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError, file_sections
from xtrace.symbols.dwarf.shapes import Budget
from xtrace.symbols.dwarf.units import Die, Unit, Units
from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.image import Image, elf_file

_DWO_NAMES = (AT.get("dwo_name", 0x76), AT.get("GNU_dwo_name", 0x2130))
_GNU_DWO_ID = AT.get("GNU_dwo_id", 0x2131)
#: The largest kernels have some 5,000 units.
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A unit whose types are in a .dwo file: the file's name, where it was made, and the unit's signature."""

    folder: str
    name: str
    signature: int


@dataclass(slots=True)
class Split:
    """The .dwo files of an image, and their package.

    Attributes:
        units: the skeletons, one for each .dwo file.
        absent: files that were not found or cannot be read, with the reason for the first.
        package_note: why the package is not used for all of them; "" if it is, or if there is none.
    """

    image: Image
    units: list[Skeleton]
    absent: list[str] = field(default_factory=list)
    package_note: str = ""

    def sections(
        self, names: Collection[bytes], budget: Budget
    ) -> Iterator[tuple[DebugSections, list[int] | None]]:
        """Yield the sections of each unit that may have a DIE with one of some names.

        Of a .dwo file that is not in the package, they are yielded in any case.

        Yields:
            the sections, and where the names are in their .debug_str, if that is known.

        Args:
            names: each ends in a zero byte.
        """
        packed: frozenset[int] = frozenset()
        path = next((path for path in self._packages() if path.is_file()), None) if self.units else None
        if path is not None:
            try:
                package = Package(self._opened(path))
                packed = package.signatures & {unit.signature for unit in self.units if unit.signature}
                if len(packed) < len(self.units):
                    self.package_note = (
                        f"{shown(path.name)} has {len(packed):,} of the image's {len(self.units):,} units"
                    )
                yield from package.naming(names, packed, budget)
            except (OSError, ImageError) as error:
                self.package_note = str(error)
            except DwarfError as error:
                packed = frozenset()
                self.package_note = f"{shown(path.name)}: {error}"
        for unit in self.units:
            if unit.signature in packed:
                continue
            try:
                yield self._sections(unit), None
            except (OSError, ImageError, DwarfError) as error:
                self.absent.append(f"{shown(unit.name)}: {error}")

    def _packages(self) -> list[Path]:
        return [Path(f"{path}.dwp") for path in (self.image.path, self.image.debug_path) if path]

    def _sections(self, unit: Skeleton) -> DebugSections:
        beside = Path(self.image.path).parent
        path = next(
            (
                place
                for place in (
                    Path(unit.folder, unit.name),
                    beside / unit.name,
                    beside / Path(unit.name).name,
                )
                if place.is_file()
            ),
            None,
        )
        if path is None:
            raise DwarfError("not found")
        return self._opened(path)

    def _opened(self, path: Path) -> DebugSections:
        data = map_file(str(path))
        sections = file_sections(data, elf_file(data, str(path)), bits=self.image.bits)
        if sections is None:
            raise DwarfError("has no .debug_info.dwo")
        return sections

    def note(self) -> str:
        """Return what is missing, and how to make it usable; "" if all files were read."""
        if not self.absent:
            return ""
        package = f"{self.package_note}; " if self.package_note else ""
        return (
            f"split DWARF: {len(self.absent):,} of {len(self.units):,} .dwo files are missing "
            f"({self.absent[0]}); {package}keep the .dwo files where they were made or beside the image, or "
            f"their package as {shown(Path(self.image.path).name)}.dwp, or build without -gsplit-dwarf"
        )


def split_of(image: Image, units: Units) -> Split:
    """Return the .dwo files that the skeleton units of an image name."""
    found: dict[tuple[str, str], Skeleton] = {}
    for unit in units.all:
        try:
            name = _dwo_name(unit.top)
            if name:
                folder = unit.top.text(AT["comp_dir"])
                found.setdefault((folder, name), Skeleton(folder, name, _signature(unit)))
            unit.forget()
        except (DwarfError, IndexError):
            continue  # this unit's own damage is noted where it is read
        if len(found) >= _MOST_FILES:
            break
    return Split(image, list(found.values()))


def _signature(unit: Unit) -> int:
    """Return what identifies a skeleton's unit, which DWARF 5 has in the header; 0 for none."""
    return unit.signature or unit.top.integer(_GNU_DWO_ID) or 0


def _dwo_name(top: Die) -> str:
    return next((name for attribute in _DWO_NAMES if (name := top.text(attribute))), "")
