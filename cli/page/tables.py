"""Tables of a page from those of the report's JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtrace.analysis.measures.certainty import certainty_word
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.report.build import TABLES
from xtrace.cli.page.figure import Column, PageTable, Row
from xtrace.cli.page.words import cell_text, domain_label, vcpu_label
from xtrace.probes.xen_abi import IDLE_DOMAIN

#: Rows of a table on a page; the JSON has all.
MOST_ROWS = 200
#: More than any trace has slots of time.
_ALL_SLOTS = 1024
#: The report's columns, by table and name.
_COLUMNS = {(table.name, column.name): column for table in TABLES for column in table.columns}
#: So few rows need no headings.
_FEW = 8


class Tables:
    """The tables of a report's JSON.

    Args:
        found: the JSON.
        most_rows: of a table on the page.
    """

    def __init__(self, found: Mapping[str, Any], most_rows: int = MOST_ROWS) -> None:
        self._most = most_rows
        self.hz: float | None = found["trace"]["tsc_hz"]
        self.names: Mapping[str, str] = found["trace"]["domains"]
        self._tables: Mapping[str, Any] = found["tables"]

    @property
    def most_slots(self) -> int:
        """Rows of a table with a row for each slot of time: all of them, unless the page must be small."""
        return _ALL_SLOTS if self._most >= MOST_ROWS else self._most

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return a table's rows; none where it was not asked for."""
        return self._tables[name]["rows"] if name in self._tables else []

    def quality(self, name: str, key: str) -> str:
        """Return how a column is known, as in the JSON; empty for keys."""
        return str(self._tables[name]["quality"].get(key, "")) if name in self._tables else ""

    def known(self, name: str, key: str) -> str:
        """Return how a column is known, in the words of a terminal's report; empty for keys."""
        quality = self.quality(name, key)
        column = _COLUMNS.get((name, key))
        return certainty_word(column, Quality(quality)) if quality and column else quality

    def guests(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the rows with their places, without those of the idle domain."""
        return [(place, row) for place, row in enumerate(self.rows(name)) if row["domain"] != IDLE_DOMAIN]

    def text(self, key: str, value: Any) -> str:
        """Return a value as text."""
        return cell_text(key, value, self.hz)

    def domain(self, number: int) -> str:
        """Return a domain's label with its name."""
        return domain_label(number, self.names)

    def are_grouped(self, domains: Sequence[int]) -> bool:
        """Return whether rows of vCPUs, of which these are the domains, get headings with the domain."""
        kinds = set(domains)
        is_named = any(str(domain) in self.names for domain in kinds)
        return is_named or (len(domains) > _FEW and 2 * len(kinds) <= len(domains))

    def ns(self, cycles: float) -> float:
        """Return a time in ns; in cycles where the TSC rate is not known."""
        return cycles * 1e9 / self.hz if self.hz else cycles

    def page_table(
        self,
        name: str,
        columns: Sequence[tuple[str, str]],
        caption: str,
        *,
        places: Iterable[int] | None = None,
        note: str = "",
    ) -> PageTable:
        """Return a table with these columns, as (key, heading).

        Args:
            places: of the rows that are wanted, in order; None for all.
        """
        rows = self.rows(name)
        wanted = list(range(len(rows)) if places is None else places)
        heads = [
            Column(key, label, self.known(name, key), is_text=_is_text(rows, key)) for key, label in columns
        ]
        shown = [
            Row([self._cell(rows[place], column.key) for column in heads], place)
            for place in wanted[: self._most]
        ]
        return PageTable(
            heads, shown, caption, f"tables.{name}.rows.{{i}}.{{k}}", max(len(wanted) - self._most, 0), note
        )

    def _cell(self, row: Mapping[str, Any], key: str) -> str:
        if key == "vcpu" and "domain" in row:
            return vcpu_label(row["domain"], row["vcpu"])
        if key == "domain":
            return self.domain(row["domain"])
        if key in ("pcpu", "irq", "vector", "line") and row[key] is not None:
            return str(row[key])
        return self.text(key, row[key])


def _is_text(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return key in ("vcpu", "domain") or any(isinstance(row[key], str) for row in rows[:1])
