"""bcc works in dom0: it counted the upcalls of the trace, and those before and after it."""

from __future__ import annotations

import pytest

from lab.checks import made
from lab.checks.made import chosen, counts, known


@pytest.mark.parametrize("name", chosen("bpf"))
def test_bcc_counted_upcalls(name: str) -> None:
    assert int(known(name)["bcc_upcalls"][0]) > 0
    assert counts(name).hypercalls[0, made.IRET] > 0
