"""Each fix taken out in a copy of the tree: the case that the slice has for it is a fault."""

from __future__ import annotations

import pytest

from soak.reverts import KEPT, REVERTS, ROOT, faults, without


@pytest.mark.parametrize("name", REVERTS)
def test_the_fix_is_where_it_is_taken_out(name: str) -> None:
    for path, old, new in REVERTS[name].edits:
        assert (ROOT / path).read_text().count(old) == 1, path
        assert old != new


def test_each_has_a_case_in_the_slice() -> None:
    assert KEPT.keys() == REVERTS.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", REVERTS)
def test_without_the_fix_its_case_is_a_fault(name: str) -> None:
    revert, seed = REVERTS[name], KEPT[name]
    with without(name) as tree:
        ((found, text),) = faults(tree, revert, range(seed, seed + 1))
    assert found == seed
    assert revert.fault in text
