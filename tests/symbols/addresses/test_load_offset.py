"""The load offset is found if the samples show it, and not guessed if they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from builders.dwarf import TEXT_ADDRESS, compile_kernel, run
from xtrace.symbols.addresses.resolve import fit_load_offset
from xtrace.symbols.image.image import Image, open_image

STEP = 2 << 20
BLOCKS, BLOCK_BYTES = 1536, 4096
#: Six megabytes: a function, then blocks that each call it somewhere, then the hypercall page.
SOURCE = f"""
    .text
    .globl start
    .type start, @function
start:
    ret
    .balign {BLOCK_BYTES}, 0x90
    .set number, 0
    .rept {BLOCKS}
    .set before, number * number * 97 % 4000
    .fill before, 1, 0x90
    call start
    .fill {BLOCK_BYTES - 5} - before, 1, 0x90
    .set number, number + 1
    .endr
    .globl hypercall_page
hypercall_page:
    .fill 4096, 1, 0x90
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("offset")
    (folder / "k.s").write_text(SOURCE)
    run(folder, "as", "k.s", "-o", "k.o")
    run(folder, "ld", "-static", "-e", "start", f"-Ttext={TEXT_ADDRESS:#x}", "k.o", "-o", "k")
    return open_image(folder / "k")


def samples(*places: int, load_offset: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array([TEXT_ADDRESS + place + load_offset for place in places], np.uint64)


@pytest.mark.parametrize("steps", [0, 1, 211, 511, -3])
def test_call_returns_show_the_offset(image: Image, steps: int) -> None:
    rng = np.random.default_rng(3)
    calling = rng.choice(BLOCKS, 40, replace=False)
    returns = (calling + 1) * BLOCK_BYTES + calling * calling * 97 % 4000 + 5
    elsewhere = rng.integers(BLOCK_BYTES, BLOCKS * BLOCK_BYTES, 60)
    rips = samples(*returns.tolist(), *elsewhere.tolist(), load_offset=steps * STEP)
    user = np.arange(0x40_0000, 0x40_0000 + 25, dtype=np.uint64)
    fitted = fit_load_offset(np.concatenate((rips, user)), image)
    assert fitted.value == steps * STEP
    assert fitted.share == pytest.approx(100 / 125)
    assert "40 of 125 distinct samples" in fitted.how


def test_hypercall_stubs_show_the_offset(image: Image) -> None:
    page = (BLOCKS + 1) * BLOCK_BYTES
    rips = samples(*(page + 32 * call + 10 for call in range(12)), load_offset=8 * STEP)
    assert fit_load_offset(rips, image).value == 8 * STEP


def test_random_samples_show_no_offset(image: Image) -> None:
    places = np.random.default_rng(4).integers(BLOCK_BYTES, STEP, 200) // 16 * 16 + 7
    fitted = fit_load_offset(samples(*places.tolist(), load_offset=STEP), image)
    assert fitted.value is None
    assert "give the offset" in fitted.how


def test_small_kernel_fits_at_only_one_offset(tmp_path: Path) -> None:
    image = open_image(compile_kernel(tmp_path / "k"))
    fitted = fit_load_offset(samples(8, 9, 20, load_offset=5 * STEP), image)
    assert fitted.value == 5 * STEP
    assert fitted.share == 1


def test_missing_offset_is_explained(image: Image, tmp_path: Path) -> None:
    none = np.empty(0, np.uint64)
    assert fit_load_offset(none, image).value is None
    user = fit_load_offset(np.array([0x40_0000], np.uint64), image)
    assert user.value is None
    assert user.how == "no load offset within 1 GiB puts a sample in the image's code"
    relocatable = open_image(compile_kernel(tmp_path / "k", relocatable=True))
    assert fit_load_offset(none, relocatable).value is None
