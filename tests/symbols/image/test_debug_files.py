"""Debug files that are found by .gnu_debuglink or by their name, and those that are not used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builders.dwarf import compile_kernel, run
from xtrace.symbols.dwarf.source_locations import member_offsets
from xtrace.symbols.image.image import Image, open_image

MEMBER = ("cpu_info", "ci_vcpu")


def finds(image: Image) -> bool:
    return member_offsets(image, {MEMBER}) == {MEMBER: 112}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a kernel whose debug file is linked, and one without a build-id."""
    folder = tmp_path_factory.mktemp("kernels")
    whole = folder / "whole"
    shutil.copy(compile_kernel(folder / "made"), whole)
    run(Path("/"), "objcopy", "--only-keep-debug", str(whole), str(folder / "kernel.dbg"))
    run(Path("/"), "objcopy", "--strip-debug", str(whole), str(folder / "bare"))
    shutil.copy(folder / "bare", folder / "linked")
    run(Path("/"), "objcopy", f"--add-gnu-debuglink={folder / 'kernel.dbg'}", str(folder / "linked"))
    return folder


def placed(folder: Path, tmp_path: Path, names: dict[str, str]) -> Path:
    for source, target in names.items():
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / source, tmp_path / target)
    return tmp_path / "netbsd"


@pytest.mark.parametrize("place", ["kernel.dbg", ".debug/kernel.dbg"])
def test_linked_file_is_used(folder: Path, tmp_path: Path, place: str) -> None:
    image = open_image(placed(folder, tmp_path, {"linked": "netbsd", "kernel.dbg": place}))
    assert image.debug_path == str(tmp_path / place)
    assert image.debug_note == ""
    assert finds(image)


def test_linked_file_of_another_build(folder: Path, tmp_path: Path) -> None:
    path = placed(folder, tmp_path, {"linked": "netbsd", "kernel.dbg": "kernel.dbg"})
    with (tmp_path / "kernel.dbg").open("ab") as file:
        file.write(b"\0")
    image = open_image(path)
    assert image.debug_path == ""
    assert "kernel.dbg: its checksum is not that in .gnu_debuglink" in image.debug_note
    assert not finds(image)
    # Given by hand, it is used: there is no build-id that contradicts.
    assert finds(open_image(path, debug_path=tmp_path / "kernel.dbg"))


def test_linked_file_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    image = open_image(placed(folder, tmp_path, {"linked": "netbsd"}))
    assert image.debug_note == (
        "debug information is in kernel.dbg (.gnu_debuglink), which is not beside the image or below "
        "/usr/lib/debug; give it with --debug"
    )


@pytest.mark.parametrize("name", ["netbsd.gdb", "netbsd.debug", ".debug/netbsd.debug"])
@pytest.mark.parametrize("source", ["whole", "kernel.dbg"])
def test_file_without_build_id_is_used_by_its_name(
    folder: Path, tmp_path: Path, name: str, source: str
) -> None:
    image = open_image(placed(folder, tmp_path, {"bare": "netbsd", source: name}))
    assert image.build_id == ""
    assert image.debug_path == str(tmp_path / name)
    assert finds(image)


def test_file_without_build_id_of_another_build(folder: Path, tmp_path: Path) -> None:
    path = placed(folder, tmp_path, {"bare": "netbsd", "whole": "netbsd.gdb"})
    image = open_image(path)
    code = next(section for section in image.sections if section.name == ".text")
    data = bytearray(path.read_bytes())
    data[code.offset] ^= 1
    path.write_bytes(data)
    other = open_image(path)
    assert other.debug_path == ""
    assert "netbsd.gdb: its code differs from the image's" in other.debug_note


def test_image_with_its_own_dwarf_looks_for_no_other(folder: Path, tmp_path: Path) -> None:
    image = open_image(placed(folder, tmp_path, {"whole": "netbsd", "kernel.dbg": "netbsd.debug"}))
    assert (image.debug_path, image.debug_note) == ("", "")
    assert finds(image)


def test_damaged_link_is_ignored(folder: Path, tmp_path: Path) -> None:
    path = placed(folder, tmp_path, {"bare": "netbsd"})
    for content in (b"", b"kernel.dbg", b"kernel.dbg\0\0", b"\0\0\0\0" + bytes(4)):
        section = tmp_path / "link"
        section.write_bytes(content + b"" if content else b"x")
        made = tmp_path / f"made{len(content)}"
        run(Path("/"), "objcopy", f"--add-section=.gnu_debuglink={section}", str(path), str(made))
        image = open_image(made)
        assert (image.debug_path, image.debug_note) == ("", "")
