"""`./run` reports in one line what it cannot do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOBODY = 65534


def test_a_folder_that_is_not_writable_is_reported() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tools" / "lock").mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "lock" / "runtime.txt", folder / "tools" / "lock")
        for file in ("run", "pyproject.toml"):
            shutil.copy(ROOT / file, folder)
        folder.chmod(0o555)
        done = subprocess.run(
            [folder / "run", "report"], user=NOBODY if os.geteuid() == 0 else None, cwd=folder,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        folder.chmod(0o755)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"run: {folder}/.venv must be created or updated but is not writable; "
        "copy the checkout and run it there\n"
    )
