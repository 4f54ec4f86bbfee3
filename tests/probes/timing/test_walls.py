"""What surrounds the child that runs an image's code, and what is said of walls that a system lacks."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders.timed import laid
from xtrace.probes.timing import child
from xtrace.probes.timing.session import ChildError, Session
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.timed_loop import CODE_ADDRESS, Body
from xtrace.symbols.x86.encode import Assembler, At, Gpr

CPU = max(os.sched_getaffinity(0))
FINE = timed_loop.loop("empty", timed_loop.chain_body(10, "add", (0,)))
NAMESPACES = "user, mount, net, pid namespaces"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look into the child")


def runs(session: Session, address: int) -> bool:
    return bool((session.run(np.array([[address, 1, 10]]), 20.0)[0] > 0).all())


@as_root
def test_only_its_own_memory_and_pipes_are_left() -> None:
    laid_out = laid([FINE])
    with Session(laid_out.program, CPU) as session:
        assert runs(session, laid_out.loops[0].address)
        process = Path(f"/proc/{session.pid}")
        regions = {
            line.split()[0].split("-")[0]: line.split()[1]
            for line in (process / "maps").read_text().splitlines()
            if "[vsyscall]" not in line  # no page of it can be unmapped, and a call through it is filtered
        }
        assert regions == {
            f"{timed_loop.CODE_ADDRESS:08x}": "r-xs",
            f"{timed_loop.DATA_ADDRESS:08x}": "rw-s",
            f"{timed_loop.FAR_ADDRESS:08x}": "rw-p",
        }
        assert {item.name for item in (process / "fd").iterdir()} == {"0", "1"}
        assert all(str((process / "fd" / name).readlink()).startswith("pipe:") for name in "01")
        limits = (process / "limits").read_text()
        for name in (
            "Max open files",
            "Max processes",
            "Max file size",
            "Max core file size",
            "Max locked memory",
        ):
            assert f"{name:<26}0 " in limits, limits
        size = next(line for line in limits.splitlines() if line.startswith("Max address space"))
        assert int(size.split()[3]) < 80 << 20


@as_root
def test_each_namespace_is_its_own() -> None:
    with Session(laid([FINE]).program, CPU) as session:
        assert session.confined
        for name in ("user", "mnt", "net", "pid"):
            ours = Path(f"/proc/self/ns/{name}").readlink()
            theirs = Path(f"/proc/{session.pid}/ns/{name}").readlink()
            assert ours != theirs
        assert not session.missing


def test_it_and_the_process_that_waits_for_it_end_together() -> None:
    session = Session(laid([FINE]).program, CPU)
    pids = {session.pid, session._process.pid}
    session.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@as_root
def test_a_killed_child_is_reported() -> None:
    laid_out = laid([FINE])
    with Session(laid_out.program, CPU) as session:
        os.kill(session.pid, signal.SIGKILL)
        entries = np.array([[laid_out.loops[0].address, 1, 10]])

        def until_it_ends() -> None:
            while True:  # the kernel needs a moment
                session.run(entries, 20.0)

        with pytest.raises(ChildError, match="SIGKILL"):
            until_it_ends()


def reads(address: int) -> Callable[[Assembler], None]:
    def emit(asm: Assembler) -> None:
        asm.op("MOV_R64_IMM64", Gpr(1), address)
        asm.op("MOV_R64_RM64", Gpr(0), At(1, 0))

    return emit


@pytest.mark.parametrize(
    "address",
    [
        CODE_ADDRESS - 8,
        CODE_ADDRESS + (1 << 20),
        timed_loop.DATA_ADDRESS - 8,
        timed_loop.DATA_ADDRESS + timed_loop.DATA_BYTES,
        timed_loop.FAR_ADDRESS + timed_loop.FAR_BYTES,
        0x7FFF_FFFF_E000,
    ],
)
def test_nothing_can_be_read_outside(address: int) -> None:
    laid_out = laid([FINE, timed_loop.loop("empty", Body(reads(address)))])
    with Session(laid_out.program, CPU) as session, pytest.raises(ChildError, match="SIGSEGV"):
        session.run(np.array([[laid_out.loops[1].address, 1, 1]]), 20.0)


# --- systems that do not give everything ---


def changed(monkeypatch: pytest.MonkeyPatch, *changes: tuple[str, str]) -> None:
    """Change the child's script."""
    text = inspect.getsource(child)
    assert all(old in text for old, _ in changes)

    def source(_module: object) -> str:
        nonlocal text
        for old, new in changes:
            text = text.replace(old, new)
        return text

    monkeypatch.setattr(inspect, "getsource", source)


NO_NAMESPACE = ("libc.unshare(", "(lambda _: -1)(")
NOT_ROOT = ("os.geteuid() == 0", "False")


@as_root
def test_without_namespaces_root_still_becomes_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, NO_NAMESPACE)
    laid_out = laid([FINE])
    with Session(laid_out.program, CPU) as session:
        assert session.missing == (NAMESPACES,)
        assert session.confined
        assert runs(session, laid_out.loops[0].address)


def test_without_a_user_namespace_an_image_of_a_user_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, NO_NAMESPACE, NOT_ROOT)
    laid_out = laid([FINE])
    with Session(laid_out.program, CPU) as session:
        assert session.missing == (NAMESPACES, "a user of its own")
        assert not session.confined
        # Its own sequences do.
        assert runs(session, laid_out.loops[0].address)


def test_a_root_without_another_user_still_has_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, ("os.setgroups([])", "raise OSError"))
    with Session(laid([FINE]).program, CPU) as session:
        assert session.confined
        assert not session.missing


def test_memory_that_stays_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    # munmap refuses an address inside a page.
    changed(monkeypatch, ("found.append((at, begin - at))", "found.append((at + 1, begin - at))"))
    with Session(laid([FINE]).program, CPU) as session:
        assert session.missing == ("removal of all other memory",)


@as_root
def test_a_user_gets_the_same_walls(tmp_path: Path) -> None:
    """Run the child as nobody: a user's namespaces, made without root's help."""
    import iced_x86
    import numpy

    root = Path(__file__).resolve().parents[3]
    folders = {
        str(root),
        str(root / "tests"),
        *(str(Path(item.__file__ or "").parents[1]) for item in (numpy, iced_x86)),
    }
    script = (
        "from builders.timed import laid, cpu\n"
        "from xtrace.probes.timing.session import Session\n"
        "from xtrace.symbols.replay import timed_loop\n"
        "code = timed_loop.loop('empty', timed_loop.chain_body(10, 'add', (0,)))\n"
        "with Session(laid([code]).program, cpu()) as session:\n"
        "    print(session.confined, *session.missing)\n"
    )
    python = next((item for item in ("/usr/bin/python3", sys.executable) if usable(item, folders)), None)
    if python is None:
        pytest.skip("nobody can run no Python here")
    done = subprocess.run(
        [python, "-B", "-c", script],
        env={"PYTHONPATH": os.pathsep.join(sorted(folders))},
        cwd="/",
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stdout + done.stderr


def usable(python: str, folders: set[str]) -> bool:
    """Return whether nobody can import the packages with a Python."""
    try:
        done = subprocess.run(
            [python, "-B", "-c", "import numpy, iced_x86, xtrace.symbols, builders.timed"],
            env={"PYTHONPATH": os.pathsep.join(sorted(folders))},
            cwd="/",
            user=65534,
            group=65534,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0
