"""Each cost table has a class of rows whose fields are its columns."""

from __future__ import annotations

from dataclasses import fields

import pytest

from builders.covering import everything
from xtrace.analysis.cost.rows import (
    CheckRow,
    CloseRow,
    DomainRow,
    Estimate,
    EstimateRow,
    NeedRow,
    SiteRow,
    UpcallRow,
)
from xtrace.analysis.measures.table import Quality, Table
from xtrace.analysis.tables.cost import TABLES

ROWS = {
    "cost_domains": DomainRow,
    "cost_upcalls": UpcallRow,
    "cost_sites": SiteRow,
    "cost_close": CloseRow,
    "cost_estimates": EstimateRow,
    "cost_checks": CheckRow,
    "cost_needs": NeedRow,
}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_fields_of_a_row_are_the_columns_of_its_table(table: Table[Estimate]) -> None:
    assert [field.name for field in fields(ROWS[table.name])] == [column.name for column in table.columns]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_table_without_rows_has_the_same_dtypes(table: Table[Estimate]) -> None:
    found = table.of(Estimate(), everything()).columns
    assert list(found.names) == [column.name for column in table.columns]
    for column in table.columns:
        text = column.quality is Quality.KEY and column.name != "domain"
        assert (found[column.name].dtype == object) is text


def test_each_table_has_a_row_class() -> None:
    assert [table.name for table in TABLES] == list(ROWS)
