"""Build the program with each fence, run it, and check its own counts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FENCES = ("lfence", "mfence", "sfence", "lockadd", "xchg")
PLACES = ("inline", "outofline")
#: The fences' names in xtrace.
MNEMONICS = {fence: fence.replace("lockadd", "lock add") for fence in FENCES}
#: The sites within the loop, or in functions that it calls.
MANNERS = ("inlined", "called")
HOT_WORKS = (
    "none",
    "stores_8",
    "stores_40",
    "copy_256",
    "list_8",
    "alu_60",
    "alu_180",
    "alu_fresh",
    "branches",
)
MISS_WORKS = ("stores_near", "store_miss_1", "store_miss_4", "load_miss_1", "chase_1")
#: Like a kernel's (kernel_work.h); none of it was looked at when the model's contexts were chosen.
KERNEL_HOT_WORKS = (
    "list_move", "list_walk_4", "list_walk_16", "hash_hot", "clear_64", "clear_256", "copy_64",
    "copy_512", "checksum_20", "checksum_64", "crc_8", "crc_32", "text_length", "text_compare",
    "bitmap_find", "bitmap_flip", "tree_same", "tree_random", "counters_4", "reference", "spinlock",
    "ring_push", "ring_move", "timer_wheel", "run_queue", "divide", "modulo_fresh", "mix_1", "mix_4",
    "switch_same", "switch_random", "calls_4", "frames_6", "compare_swap", "sequence_read",
    "copy_unaligned", "decode_16", "fresh_120", "ones_8", "packet",
)  # fmt: skip
KERNEL_MISS_WORKS = (
    "near_walk_4", "near_hash", "near_copy", "llc_load_1", "llc_store_1", "llc_walk_2", "far_hash",
    "far_walk_2", "far_walk_4", "far_copy", "far_count", "far_store_2", "cold_load_1", "cold_walk_2",
    "cold_walk_4", "cold_store_1", "cold_count", "nt_word", "nt_line", "clear_stream", "sum_stream",
)  # fmt: skip
ALL_HOT_WORKS = (*HOT_WORKS, *KERNEL_HOT_WORKS)
GUEST_CPU, XEN_CPU = 0, 1


@dataclass(frozen=True, slots=True)
class Build:
    """One way to build the program."""

    fence: str
    place: str

    @property
    def name(self) -> str:
        """Return its file's name."""
        return f"guest-{self.fence}-{self.place}"


@dataclass(frozen=True, slots=True)
class Loop:
    """One of the program's loops: where its sites are, and the work between them."""

    manner: str
    work: str

    def __str__(self) -> str:
        return f"{self.manner}/{self.work}"


#: Every fenced build is compared with this one.  The cost of an out-of-line fence includes its call.
UNFENCED = Build("none", "inline")
FENCED = tuple(Build(fence, place) for fence in FENCES for place in PLACES)
BUILDS = (UNFENCED, *FENCED)
OLD_LOOPS = tuple(Loop(manner, work) for manner in MANNERS for work in (*HOT_WORKS, *MISS_WORKS))
#: In one manner only, because a pass over them takes as long as one over all others.
KERNEL_LOOPS = tuple(Loop("inlined", work) for work in (*KERNEL_HOT_WORKS, *KERNEL_MISS_WORKS))
LOOPS = (*OLD_LOOPS, *KERNEL_LOOPS)


class DisagreementError(Exception):
    """The program's own counts are inconsistent: an event was lost, or the program is broken."""


def build(build: Build, folder: Path) -> Path:
    """Build the program in one way, unless that was done since its sources changed, and return its path."""
    path = folder / build.name
    sources = (file for file in HERE.iterdir() if file.suffix in (".c", ".h", ".sh"))
    if not path.exists() or path.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        subprocess.run(["sh", HERE / "build.sh", folder, build.fence, build.place], check=True)
    return path


def build_all(folder: Path, builds: Sequence[Build] = BUILDS) -> dict[Build, Path]:
    """Build the program in every way and return the paths."""
    return {one: build(one, folder) for one in builds}


def run(program: Path, loops: Sequence[Loop], **options: int) -> dict[str, Any]:
    """Run loops and return the program's output.

    Options are those of main.c, such as batches=12.

    Raises:
        DisagreementError: an event was sent and never handled, or counts contradict each other.
    """
    given = {"guest_cpu": GUEST_CPU, "xen_cpu": XEN_CPU, **options}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run(
        [program, *words, *map(str, loops)], check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    told: dict[str, Any] = json.loads(done.stdout)
    agree(told)
    return told


def agree(told: dict[str, Any]) -> None:
    """Check that no event was lost and that each upcall has one cause.

    Raises:
        DisagreementError: the counts show otherwise.
    """
    if told["left_pending"] or told["event_count"] + told["merged_count"] != told["sent_count"]:
        raise DisagreementError(f"events were lost: {told}")
    if told["upcall_count"] != told["delivery_count"] or told["kick_count"] < told["interrupt_count"]:
        raise DisagreementError(f"upcalls, deliveries and kicks disagree: {told}")
