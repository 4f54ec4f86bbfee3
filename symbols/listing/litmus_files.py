"""Write each distinct description of an image as litmus tests, with a README of the commands."""

from __future__ import annotations

from pathlib import Path

from xtrace.symbols.errors import ImageError
from xtrace.symbols.proof.description import Description
from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.sites.model import Site, SiteTable, where

#: More than any kernel has: distinct descriptions, and tests in all.
_MOST_DESCRIPTIONS = 500
_MOST_TESTS = 50_000

README = """Litmus tests of {path}, for herd7 and litmus7 (https://github.com/herd/herdtools7)

    herd7 -optace true -speedcheck fast d01-01.litmus         # one test
    herd7 -optace true -speedcheck fast *.litmus > outcomes   # all
    litmus7 d01-01.litmus                                     # on the processor itself

"exists" is an upcall that is lost.  "Never" in each test of a description means that none is lost.

P is evtchn_upcall_pending, M evtchn_upcall_mask, S a bit of the selector, Z0 and so on memory that nothing
else uses.  P0 is the pCPU of the vCPU: the site's code, with Xen's exit test and the upcall's handler inline
at the point at which the interrupt is taken.  P1 and P2 send an event: the selector, then pending; K0 and K1
stand for their IPIs, which P0 reads as 1 at that point.  The outcome of each test of P is fixed by the
condition, so there is a test for each outcome.

herd7 tries every source of every read, so the tests leave out what changes no answer:
- M is only P0's: what it reads there is known, and it is not read.
- A test asks for the loss of one event, whose bit S is: every take of S finds 0.  A locked AND that clears
  what was read then changes nothing, and is a locked instruction on memory of its own.
- Others only set P.  Between P0's own writes to P, a read of 1 after one of 1, or of 0 before one of 0, says
  nothing new.  The same holds for S.
- A locked store whose old value nobody needs is a store and a locked instruction after it; in a sender, which
  reads nothing, it is a store.
- An exit test that finds nothing, followed at once by one that delivers, is another test: the interrupt came
  later.
- Two senders are tested with the handler alone, and only where its accesses are not the usual ones: one event
  is sent while the other is handled.  The order of a site's own accesses is decided by one sender.

{sites}
"""


def write_litmus(folder: Path, table: SiteTable) -> str:
    """Write the tests to a new or empty folder; return one line that says what was written.

    Raises:
        ImageError: the folder has files, or the image has no site to test.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ImageError(f"{folder}: not empty; --litmus needs a new folder")
    sites: dict[Description, list[Site]] = {}
    for site in table.sites:
        if site.description is not None:
            sites.setdefault(site.description, []).append(site)
    if not sites:
        raise ImageError(f"{table.path}: no site that could lose an upcall, so no test can be written")
    folder.mkdir(parents=True, exist_ok=True)
    written, lines = 0, []
    for number, (description, owners) in enumerate(list(sites.items())[:_MOST_DESCRIPTIONS], 1):
        name = f"d{number:02}"
        names = ", ".join(where(site) for site in owners[:4])
        more = f" and {len(owners) - 4} more" if len(owners) > 4 else ""
        count = 0
        try:
            for test in litmus_tests(name, description, f"{owners[0].kind} {where(owners[0])}"):
                (folder / f"{test.name}.litmus").write_text(test.text, encoding="utf-8")
                count += 1
        except ValueError as error:
            more += f"; not all tests: {error}"
        lines.append(f"{name}  {count} tests  {owners[0].kind}: {names}{more}")
        written += count
        if written > _MOST_TESTS:
            raise ImageError(f"{table.path}: more than {_MOST_TESTS:,} tests")
    (folder / "README").write_text(
        README.format(path=table.path, sites="\n".join(lines)), encoding="utf-8", errors="backslashreplace"
    )
    return f"{folder}: {written:,} litmus tests of {len(lines)} descriptions; README says how to run them"
