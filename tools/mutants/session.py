"""A module's mutants and what became of each, in cosmic-ray's database: what was run is not run again."""

from __future__ import annotations

import ast
import json
import tokenize
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from io import StringIO
from itertools import pairwise
from pathlib import Path

from cosmic_ray.commands import init
from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import MutationSpec, TestOutcome, WorkerOutcome, WorkItem, WorkResult

from mutants import aside
from mutants.targets import ROOT, SEED, Target

FOLDER = ROOT / "build" / "mutants"
#: What cosmic-ray itself writes for a run that was ended.
TIMEOUT = "timeout"
NOT_DRAWN = "not drawn"


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    TIMEOUT = "timeout"
    ASIDE = "set aside"
    NOT_DRAWN = "not drawn"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mutant with its fate.

    Attributes:
        note: why it was set aside, or its diff.
    """

    job: str
    mutation: MutationSpec
    fate: Fate
    note: str


class Session:
    """The mutants of one target."""

    def __init__(self, target: Target, database: WorkDB) -> None:
        self.target = target
        self._database = database

    def pending(self) -> list[WorkItem]:
        """Return the mutants that were not run, in a random order: an interrupted run is a sample."""
        items = {item.job_id: item for item in self._database.pending_work_items}
        return [items[job] for job in self._by_lot(items.values())]

    def _by_lot(self, items: Iterable[WorkItem]) -> list[str]:
        """Return the jobs of mutants, in an order that depends only on the seed and on what each changes."""
        text = (ROOT / self.target.module).read_text()
        lots = sorted((sha256(repr((SEED, key)).encode()).digest(), job) for key, job in _keys(text, items))
        return [job for _, job in lots]

    def keep(self, job: str, fate: Fate, output: str, diff: str) -> None:
        """Keep what a run showed."""
        outcome = TestOutcome.SURVIVED if fate is Fate.SURVIVED else TestOutcome.KILLED
        said = TIMEOUT if fate is Fate.TIMEOUT else output
        self._database.set_result(job, WorkResult(WorkerOutcome.NORMAL, said, outcome, diff))

    def mutants(self) -> list[Mutant]:
        """Return all mutants, in the order of the source."""
        results = dict(self._database.results)
        items = sorted(self._database.work_items, key=lambda item: _order(item.mutations[0]))
        return [_mutant(item, results.get(item.job_id)) for item in items]

    def set_aside(self) -> None:
        """Set aside what the rule names, and what is not drawn of the rest.

        What is drawn of a function does not depend on the others: it stays drawn where they change.
        """
        text = (ROOT / self.target.module).read_text()
        rule = aside.of_source(text)
        left = []
        for item in self._database.work_items:
            why = rule.reason(item.mutations[0])
            if why:
                self._skip(item.job_id, why)
            else:
                left.append(item)
        if self.target.drawn:
            for job in self._by_lot(left)[self.target.drawn :]:
                self._skip(job, NOT_DRAWN)

    def _skip(self, job: str, why: str) -> None:
        self._database.set_result(job, WorkResult(WorkerOutcome.SKIPPED, why))


@contextmanager
def opened(target: Target) -> Iterator[Session]:
    """Open a target's session; another text, rule or draw begins anew.

    What was found of the mutants of a function or class at the top of the module stays where its text does.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{target.name}.sqlite"
    note = path.with_suffix(".json")
    is_of = {
        "text": (ROOT / target.module).read_text(),
        "drawn": target.drawn,
        "seed": SEED,
        "rule": sha256(Path(aside.__file__).read_bytes()).hexdigest(),
    }
    was_of = json.loads(note.read_text()) if path.exists() and note.exists() else {}
    fresh = was_of != is_of
    carried: dict[_Key, WorkResult] = {}
    if fresh:
        if was_of:
            with use_db(path) as database:
                carried = _found(was_of["text"], database)
        path.unlink(missing_ok=True)
        note.unlink(missing_ok=True)
    with use_db(path) as database:
        session = Session(target, database)
        if fresh:
            init([Path(target.module)], database, {})
            session.set_aside()
            for key, job in _keys(is_of["text"], database.pending_work_items):
                if key in carried:
                    database.set_result(job, carried[key])
            note.write_text(json.dumps(is_of))
        yield session


#: A mutant: the code of the statement at the top that it is in, its token there, the operator, its turn.
_Key = tuple[str, int, str, str, int]

_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_BEFORE_A_STATEMENT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def _keys(text: str, items: Iterable[WorkItem]) -> Iterator[tuple[_Key, str]]:
    """Yield a key that identifies each mutant of a module's text, and its job.

    Comments, docstrings and blank lines are left out, so that they may be rewritten.
    """
    tokens = _tokens(text)
    tops = []
    for node in ast.parse(text).body:
        first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", ()))])
        starts = [start for start, _ in tokens if first <= start[0] <= (node.end_lineno or first)]
        code = " ".join(word for start, word in tokens if first <= start[0] <= (node.end_lineno or first))
        tops.append((first, code, starts))
    turns: defaultdict[tuple[str, int, str, str], int] = defaultdict(int)
    for item in sorted(items, key=lambda item: _order(item.mutations[0])):
        mutation = item.mutations[0]
        start = tuple(mutation.start_pos)
        _, code, starts = max((top for top in tops if top[0] <= start[0]), default=(0, "", []))
        key = code, bisect_left(starts, start), mutation.operator_name, repr(mutation.operator_args)
        yield (*key, turns[key]), item.job_id
        turns[key] += 1


def _tokens(text: str) -> list[tuple[tuple[int, int], str]]:
    """Return where each token of the code begins, and what it is."""
    all_tokens = [
        token for token in tokenize.generate_tokens(StringIO(text).readline) if token.type not in _LAYOUT
    ]
    kept = []
    before = tokenize.NEWLINE
    for token, after in pairwise([*all_tokens, None]):
        ends = after is None or after.type == tokenize.NEWLINE
        if not (token.type == tokenize.STRING and before in _BEFORE_A_STATEMENT and ends):
            kept.append((token.start, token.string.strip() or tokenize.tok_name[token.type]))
        before = token.type
    return kept


def _found(text: str, database: WorkDB) -> dict[_Key, WorkResult]:
    """Return what runs have shown."""
    results = {
        job: result for job, result in database.results if result.worker_outcome is WorkerOutcome.NORMAL
    }
    return {key: results[job] for key, job in _keys(text, database.work_items) if job in results}


def _order(mutation: MutationSpec) -> tuple[tuple[int, int], str, int]:
    return tuple(mutation.start_pos), mutation.operator_name, mutation.occurrence


def _mutant(item: WorkItem, result: WorkResult | None) -> Mutant:
    mutation = item.mutations[0]
    if result is None:
        return Mutant(item.job_id, mutation, Fate.PENDING, "")
    if result.worker_outcome is WorkerOutcome.SKIPPED:
        fate = Fate.NOT_DRAWN if result.output == NOT_DRAWN else Fate.ASIDE
        return Mutant(item.job_id, mutation, fate, result.output or "")
    if result.test_outcome is TestOutcome.SURVIVED:
        return Mutant(item.job_id, mutation, Fate.SURVIVED, result.diff or "")
    fate = Fate.TIMEOUT if result.output == TIMEOUT else Fate.KILLED
    return Mutant(item.job_id, mutation, fate, result.diff or "")
