"""Addresses of one build do not fit another: those that moved are inside instructions."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lab.guest.build import Variant, build
from xtrace.analysis.columns import Columns
from xtrace.analysis.cost.cross_checks.image_fit import image_check
from xtrace.analysis.measures.kernel_samples import KernelSamples
from xtrace.analysis.report.guest_kernels import ImageKernel
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.flow.code import Code

DOMAIN = 3
OFFSET = 0x1000


def kernel_of(path: Path) -> ImageKernel:
    image = open_image(path)
    return ImageKernel(DOMAIN, image, find_sites(image, lines=False), OFFSET)


def recorded(kernel: ImageKernel) -> list[int]:
    """Return addresses at which instructions of a kernel begin, as records of the domain have them."""
    code = Code(kernel.image, None)
    return [
        insn.address + OFFSET
        for start in sorted({site.address - site.offset for site in kernel.sites.sites if site.symbol})
        for insn, _ in zip(code.run(start), range(40), strict=False)
    ]


def samples(kernel: ImageKernel, addresses: list[int]) -> KernelSamples:
    rips = np.array(addresses, np.uint64)
    found = kernel.find(rips - np.uint64(OFFSET), 0)
    columns = Columns(
        {
            "domain": np.full(len(rips), DOMAIN),
            "rip": rips,
            "function": np.array(found.functions, object),
            "offset": found.offsets,
            "inside": found.inside,
        }
    )
    images = Columns(
        {"domain": np.array([DOMAIN]), "load_offset": np.array([hex(OFFSET)], object)},
    )
    return KernelSamples(images, columns)


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageKernel, ImageKernel]:
    """Return a fenced and an unfenced build of one kernel."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler here")
    folder = tmp_path_factory.mktemp("guest")
    fenced, plain = (kernel_of(build(folder, Variant(fence, "inline"))) for fence in ("lfence", "none"))
    return fenced, plain


def test_the_kernel_that_ran_fits(builds: tuple[ImageKernel, ImageKernel]) -> None:
    for kernel in builds:
        (row,) = image_check(samples(kernel, recorded(kernel)), kernel)
        assert (row.what, row.agrees, row.domain) == ("image", "yes", DOMAIN)
        assert row.counted_count == row.traced_low_count > 40


def test_an_unfenced_image_on_a_fenced_trace_is_doubted(builds: tuple[ImageKernel, ImageKernel]) -> None:
    fenced, plain = builds
    (row,) = image_check(samples(plain, recorded(fenced)), plain)
    assert row.agrees == "no"
    assert "inside instructions of the image" in row.meaning
    (row,) = image_check(samples(fenced, recorded(plain)), fenced)
    assert row.agrees == "no"


def test_few_addresses_say_nothing(builds: tuple[ImageKernel, ImageKernel]) -> None:
    kernel = builds[0]
    assert image_check(samples(kernel, recorded(kernel)[:3]), kernel) == []
