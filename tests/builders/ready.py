"""Run xtrace in a separate process without the 1.5 s that its imports take.

Each test process starts a server that has imported the modules.  Each command is a fork of the server with
the given streams, folder and variables, and begins and ends like the installed command.  What depends on a
fresh interpreter, or on how it was started, must be tested with one.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from leftovers import READY

Done = subprocess.CompletedProcess[str]
_LIMIT_S = 240


def run(
    arguments: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Done:
    """Run ``xtrace`` with ``arguments`` to its end.

    Args:
        arguments: the words after ``xtrace``.
        stdin: content of its standard input.
        environment: its variables; by default those of this process.
        cwd: its working directory; by default that of this process.
    """
    words = [str(argument) for argument in arguments]
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        variables = dict(os.environ if environment is None else environment)
        asked = json.dumps([words, variables, str(cwd or Path.cwd())]).encode()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                files = (theirs, given, out, err)
                socket.send_fds(_ready(), [b"x"], [file.fileno() for file in files])
            ours.settimeout(_LIMIT_S)
            ours.sendall(len(asked).to_bytes(4, "little") + asked)
            code = int(ours.recv(16))
        out.seek(0)
        err.seek(0)
        return Done(["xtrace", *words], code, out.read().decode(), err.read().decode())


@functools.cache
def _ready() -> socket.socket:
    """Start the server; it ends when this process's end of the socket is closed."""
    ours, theirs = socket.socketpair()
    atexit.register(ours.close)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {READY}"],
            stdin=theirs.fileno(),
            start_new_session=True,
        ).returncode = 0  # nobody waits for it
    return ours


def serve() -> None:
    """Fork for each command requested on standard input."""
    import xtrace.analysis.state_machine.machine
    import xtrace.cli.main
    import xtrace.probes.reader.loops  # noqa: F401

    asking = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        _, fds, _, _ = socket.recv_fds(asking, 1, 4)
        if not fds:
            return
        if os.fork() == 0:
            asking.close()
            _watch(*fds)
        for fd in fds:
            os.close(fd)


def _watch(control: int, *streams: int) -> NoReturn:
    """Fork once more for the command, and send its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    told = socket.socket(fileno=control)
    content = told.makefile("rb")
    words, variables, folder = json.loads(content.read(int.from_bytes(content.read(4), "little")))
    pid = os.fork()
    if pid == 0:
        content.close()
        told.close()
        _become(words, variables, folder, streams)
    _, status = os.waitpid(pid, 0)
    told.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(words: list[str], variables: dict[str, str], folder: str, streams: Sequence[int]) -> NoReturn:
    for number, fd in enumerate(streams):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    sys.argv = ["xtrace", *words]
    # As the interpreter opens them for files.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    from xtrace.cli.start import main

    main()
