"""abi.h and abi.py agree, and the C buckets match the report's histograms."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from builders.bpf.system import ROOT, compile_c, require_tool
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes.bpf import abi
from xtrace.probes.live.histogram import bucket_of

_HEADER = ROOT / "probes" / "bpf" / "abi.h"
_PROGRAM = """
#include <inttypes.h>
#include <stdio.h>
#include <stddef.h>
typedef uint64_t u64;
typedef uint32_t u32;
#define __always_inline inline
#include "abi.h"
int main(void)
{
	u64 value;

	printf("%zu %zu %zu\\n", sizeof(struct event), sizeof(struct sample), sizeof(struct tally));
	printf("%zu %zu\\n", offsetof(struct sample, ip), offsetof(struct sample, flags));
	while (scanf("%" SCNu64, &value) == 1)
		printf("%" PRIu32 "\\n", bucket_of(value));
	return 0;
}
"""


def _values(name: str) -> dict[str, int]:
    block = re.search(rf"enum {name} \{{(.*?)\}};", _HEADER.read_text(), re.DOTALL)
    assert block is not None
    return {key: int(value) for key, value in re.findall(r"^\t([A-Z_]+) = (\d+),", block[1], re.MULTILINE)}


def test_header_and_python_use_the_same_numbers() -> None:
    assert _values("kind") == {kind.name: int(kind) for kind in abi.Kind}
    assert _values("counter") == {counter.name: int(counter) for counter in abi.Counter}


def test_each_counted_kind_is_described() -> None:
    counted = set(abi.Kind) - {abi.Kind.SAMPLE}
    assert set(abi.ID_OF) == set(abi.MEANINGS) == counted


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_tool("gcc", "gcc")
    folder = tmp_path_factory.mktemp("abi")
    source = folder / "abi.c"
    source.write_text(_PROGRAM)
    return compile_c(source, folder / "abi", f"-I{_HEADER.parent}")


def _run(executable: Path, values: list[int]) -> list[str]:
    text = "\n".join(map(str, values))
    return subprocess.run([executable], input=text, capture_output=True, text=True, check=True).stdout.split()


def test_record_sizes_match_their_readers(compiled: Path) -> None:
    sizes = list(map(int, _run(compiled, [])))
    assert sizes[:3] == [
        abi.EVENT_BYTES - abi.RING_HEADER_BYTES,
        abi.SAMPLE_BYTES - abi.RING_HEADER_BYTES,
        8 * abi.TALLY_WORDS,
    ]
    assert sizes[3:] == [16, 48]


def test_c_buckets_match_the_reports(compiled: Path) -> None:
    chosen = random.Random(5)
    edges = [(1 << bit) + step for bit in range(1, 62) for step in (-1, 0, 1)]
    values = [0, *edges, *(chosen.getrandbits(chosen.randrange(1, 63)) for _ in range(2000))]
    found = list(map(int, _run(compiled, values)[5:]))
    assert found == [bucket_of(value) for value in values]
    least, greatest = bucket_bounds(np.array(found))
    assert ((least <= values) & (values <= greatest)).all()


def test_ids_have_the_kernels_names() -> None:
    assert abi.name_of_id(abi.Kind.SOFTIRQ, 3) == "net_rx"
    assert abi.name_of_id(abi.Kind.IPI, 2 << 16 | 1) == "call_function_single to 1"
    assert abi.name_of_id(abi.Kind.PRIVCMD, 77) == "ioctl 77"
    assert abi.name_of_id(abi.Kind.IRQ_HANDLER, 3) == ""
