"""Report the mutants' results: a summary per module, each survivor with its reason, docs/mutants.md."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mutants.aside import REASONS
from mutants.session import Fate, Mutant, opened
from mutants.targets import ROOT, SEED, TARGETS, Target

_HERE = Path(__file__).parent
_RUN = (Fate.KILLED, Fate.SURVIVED, Fate.TIMEOUT)
_BEGIN, _END = "<!-- mutants:begin -->", "<!-- mutants:end -->"


@dataclass(frozen=True, slots=True)
class Equivalent:
    """Mutants that behave as the original does.

    Attributes:
        module: the module's path; "" for all.  operator: a pattern that matches the operator's name.
        before, after: patterns that match the changed line without and with the change.
        why: the reason, in one sentence.
    """

    module: str
    operator: str
    before: str
    after: str
    why: str

    def fits(self, target: Target, mutant: Mutant) -> bool:
        """Return whether this entry explains a survivor."""
        before, after = changed(mutant)
        return (
            self.module in ("", target.module)
            and re.search(self.operator, mutant.mutation.operator_name) is not None
            and re.search(self.before, before) is not None
            and re.search(self.after, after) is not None
        )


def equivalents() -> list[Equivalent]:
    """Return the entries of equivalent.toml."""
    listed = tomllib.loads((_HERE / "equivalent.toml").read_text())["equivalent"]
    patterns = ("module", "operator", "before", "after")
    return [Equivalent(*(one.get(name, "") for name in patterns), one["why"]) for one in listed]


def changed(mutant: Mutant) -> tuple[str, str]:
    """Return the lines that a mutant changes, without and with the change."""
    lines = mutant.note.splitlines()[2:]
    before = " ".join(line[1:].strip() for line in lines if line.startswith("-"))
    return before, " ".join(line[1:].strip() for line in lines if line.startswith("+"))


def explained(target: Target, mutants: Iterable[Mutant]) -> tuple[list[tuple[Mutant, str]], list[Mutant]]:
    """Return the survivors that are equivalent, each with its reason, and those that are open."""
    known = equivalents()
    same, left = [], []
    for mutant in mutants:
        if mutant.fate is Fate.SURVIVED:
            why = next((one.why for one in known if one.fits(target, mutant)), "")
            if why:
                same.append((mutant, why))
            else:
                left.append(mutant)
    return same, left


def summary(target: Target, mutants: list[Mutant]) -> str:
    """Return a target's counts, and its open survivors, for the terminal."""
    fates = Counter(mutant.fate for mutant in mutants)
    same, left = explained(target, mutants)
    counts = ", ".join(f"{fates[fate]} {fate}" for fate in Fate if fates[fate])
    lines = [f"{target.module}: {counts}; of the survivors {len(same)} equivalent, {len(left)} open"]
    for mutant in left:
        before, after = changed(mutant)
        lines += [f"  {_place(mutant)}", f"    - {before}", f"    + {after}"]
    return "\n".join(lines)


def write() -> int:
    """Write the tables of docs/mutants.md; return 1 if mutants of a target have not been run yet.

    What the page says of a target that was not run in this checkout stays.
    """
    path = ROOT / "docs" / "mutants.md"
    text = path.read_text()
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    known = _known(text[begin:end])
    rows, lists, total = [], [], Counter[str]()
    whole = True
    commit = _commit()
    for target in TARGETS:
        with opened(target) as session:
            mutants = session.mutants()
        if target.module in known and not any(mutant.fate in _RUN for mutant in mutants):
            row, listed = known[target.module]
            rows.append(row)
            lists += listed
            total.update(_counted(row))
            continue
        whole &= all(mutant.fate is not Fate.PENDING for mutant in mutants)
        same, left = explained(target, mutants)
        row = _counts(mutants, len(same), len(left))
        total.update(row)
        name = f"`{target.module}`" + (f", {target.drawn} drawn" if target.drawn else "")
        if row[Fate.PENDING]:
            name += f"; {row[Fate.PENDING]:,} NOT RUN YET"
        rows.append(_row(name, row, commit))
        lists += _survivors(target, same, left)
    rows.append(_row("all that were run", total, ""))
    head = [
        f"Seed {SEED}.", "",
        f"| module | mutants | {' | '.join(REASONS)} | not ended | killed | equivalent | open "
        "| killed of the rest | of those not equivalent | commit |",
        "|---|" + "---|" * (len(REASONS) + 8),
    ]  # fmt: skip
    path.write_text("\n".join([text[:begin], *head, *rows, "", *lists]).rstrip() + "\n" + text[end:])
    return 0 if whole else 1


def _commit() -> str:
    """Return the last commit that changed a target or a test."""
    return subprocess.run(
        ["git", "log", "-1", "--format=%h", "--", *(target.module for target in TARGETS), "tests"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip


def _known(text: str) -> dict[str, tuple[str, list[str]]]:
    """Return the row and the list of survivors of each module on the page."""
    found = {}
    for row in re.findall(r"^\| `.*", text, re.MULTILINE):
        module = row.split("`")[1]
        section = re.search(rf"^### {re.escape(module)}\n.*?(?=^### |\Z)", text, re.MULTILINE | re.DOTALL)
        found[module] = row, [*section[0].rstrip().splitlines(), ""] if section else []
    return found


def _counted(row: str) -> Counter[str]:
    """Return the counts of a row of the page."""
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    names = ("mutants", *REASONS, Fate.TIMEOUT, Fate.KILLED, "equivalent", "open")
    return Counter({name: int(cell.replace(",", "")) for name, cell in zip(names, cells, strict=False)})


def _counts(mutants: list[Mutant], same: int, left: int) -> Counter[str]:
    counts: Counter[str] = Counter(mutant.fate for mutant in mutants)
    counts.update(mutant.note for mutant in mutants if mutant.fate is Fate.ASIDE)
    counts["mutants"] = sum(mutant.fate not in (Fate.NOT_DRAWN, Fate.PENDING) for mutant in mutants)
    counts["equivalent"], counts["open"] = same, left
    return counts


def _row(name: str, counts: Counter[str], commit: str) -> str:
    killed, same, left = counts[Fate.KILLED], counts["equivalent"], counts["open"]
    cells = [
        name, counts["mutants"], *(counts[why] for why in REASONS), counts[Fate.TIMEOUT], killed, same, left,
        _share(killed, killed + same + left), _share(killed, killed + left), commit,
    ]  # fmt: skip
    return f"| {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in cells)} |"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _survivors(target: Target, same: list[tuple[Mutant, str]], left: list[Mutant]) -> list[str]:
    if not same and not left:
        return []
    lines = [f"### {target.module}", ""]
    by_reason: dict[str, list[Mutant]] = {}
    for mutant, why in same:
        by_reason.setdefault(why, []).append(mutant)
    for why, mutants in by_reason.items():
        lines += [f"Equivalent: {why}", "", *map(_listed, mutants), ""]
    if left:
        lines += ["Open:", "", *map(_listed, left), ""]
    return lines


def _listed(mutant: Mutant) -> str:
    before, after = (_cut(text) for text in changed(mutant))
    return f"- {_place(mutant)}: `{before}` to `{after}`"


def _cut(text: str) -> str:
    text = text.replace("`", "'")
    return text if len(text) <= 120 else f"{text[:117]}..."


def _place(mutant: Mutant) -> str:
    where = mutant.mutation.definition_name or "module"
    return f"{where}, line {mutant.mutation.start_pos[0]}"
