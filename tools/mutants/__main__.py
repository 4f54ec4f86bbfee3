"""Run the mutants that have not been run yet: make mutants [MODULES="symbols/sites/verdict.py ..."].

usage: python -m mutants [--again] [--show] [--page] [MODULE...]

    --again   run the open survivors again, after tests were added
    --show    show the survivors that no entry of equivalent.toml explains; run nothing
    --page    write docs/mutants.md from the stored results; run nothing
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator

from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator
from cosmic_ray.work_item import MutationSpec

from mutants import page, workers
from mutants.session import FOLDER, Session, opened
from mutants.targets import ROOT, Target, chosen


def main(arguments: list[str]) -> int:
    """Do what the command line asks for."""
    flags = {word for word in arguments if word.startswith("--")}
    if flags - {"--again", "--show", "--page"}:
        _say(__doc__)
        return 2
    targets = chosen([word for word in arguments if word not in flags])
    if "--page" in flags:
        return page.write()
    for target in targets:
        with opened(target) as session:
            if "--show" not in flags:
                _run(target, session, again="--again" in flags)
            _say(page.summary(target, session.mutants()))
    return 0


def _run(target: Target, session: Session, *, again: bool) -> None:
    todo = {item.job_id: item.mutations[0] for item in session.pending()}
    if again:
        _, left = page.explained(target, session.mutants())
        todo |= {one.job: one.mutation for one in left}
    if not todo:
        return
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("mutants: another run is using build/mutants") from None
        _run_all(target, session, todo)


def _run_all(target: Target, session: Session, todo: dict[str, MutationSpec]) -> None:
    source = (ROOT / target.module).read_text()
    begin, last = time.monotonic(), 0.0
    # Without arguments pytest would run every test there is.
    stages = [tests for tests in (target.quick, target.tests) if tests]
    processes = len(os.sched_getaffinity(0))
    for count, done in enumerate(workers.run(target.module, stages, _jobs(source, todo), processes), 1):
        session.keep(done.name, done.fate, done.output, done.diff)
        now = time.monotonic() - begin
        if now - last > 30 or count == len(todo):
            last = now
            _say(f"{target.module}: {count} of {len(todo)}, {now:.0f} s")


def _jobs(source: str, todo: dict[str, MutationSpec]) -> Iterator[workers.Job]:
    for job, mutation in todo.items():
        operator = get_operator(mutation.operator_name)(**mutation.operator_args)
        yield workers.Job(job, mutate_code(source, operator, mutation.occurrence))


def _say(text: str | None) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
