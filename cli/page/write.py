"""Write the page of a command to a file: the one function for each command.

What makes pages is imported where it is needed: a command creates a PageFile before it begins to read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtrace.cli.page.origin import Hashing, Origin, short_path
from xtrace.probes.errors import TraceError
from xtrace.probes.outputs import refuse_inputs, replace_text

if TYPE_CHECKING:
    from xtrace.analysis.comparison.compare import Diff
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.request import GuestImage
    from xtrace.analysis.trial.result import Result
    from xtrace.cli.page.figure import Page
    from xtrace.probes.timing.calibration import Calibration
    from xtrace.symbols.sites.model import SiteTable

#: Stands for standard output.
STDOUT = "-"
#: Rows of a table on a page that would be too great with MOST_ROWS.
_FEW_ROWS = 20


class PageFile:
    """A page that is to be written; what it is made from is hashed meanwhile.

    Args:
        target: the file; ``-`` is standard output.
        inputs: the files that the page will be made from.
        images: those of guests' kernels, and the domains that run them.

    Raises:
        TraceError: the file cannot be written.
    """

    def __init__(self, target: Path, inputs: Sequence[Path], images: Sequence[GuestImage] = ()) -> None:
        if str(target) != STDOUT:
            _must_be_writable(target)
            refuse_inputs(target, inputs)
        self._target, self._images = target, images
        self._hashing = Hashing(inputs)

    def write_report(
        self,
        report: Report,
        names: Sequence[str],
        path: str,
        *,
        calibration: Path | None = None,
        trial: Path | None = None,
    ) -> None:
        """Write the page of a report.

        Args:
            names: of the traces.
            path: of the trace, for the commands of findings; empty where there is no single one.
            calibration, trial: files of what fences cost, if the report used them.
        """
        from xtrace.analysis.report.build import json_object
        from xtrace.cli.page.report_page import report_page

        found = json_object(report)
        data: dict[str, Any] = {"report.json": found}
        more: dict[str, Any] = {}
        if calibration is not None:
            more["calibration"] = data["calibration.json"] = _calibration(calibration)
        if trial is not None:
            more["trial"] = data["trial.json"] = _trial(trial)
        if self._images:
            more["images"] = data["sites.json"] = [_image(each) for each in self._images]
        whole = {**found, **more}
        self._put(lambda most_rows: report_page(whole, names, short_path(path), most_rows), data)

    def write_diff(self, diff: Diff) -> None:
        """Write the page of a comparison."""
        from xtrace.analysis.comparison.compare import json_object
        from xtrace.cli.page.diff_page import diff_page

        found = json_object(diff)
        self._put(lambda _: diff_page(found), {"diff.json": found})

    def write_sites(self, found: Mapping[str, Any], old: SiteTable | None = None) -> None:
        """Write the page of an image's sites.

        Args:
            found: what ``--json`` prints of them.
            old: of the old image, if two are compared.
        """
        from xtrace.cli.page.sites_page import sites_page
        from xtrace.symbols.listing.export import site_object

        before = [] if old is None else [site_object(site) for site in old.sites]
        self._put(lambda _: sites_page(found, before), {"sites.json": found})

    def write_calibration(self, calibration: Calibration) -> None:
        """Write the page of a calibration."""
        from xtrace.cli.page.calibration_page import calibration_page
        from xtrace.probes.timing.calibration import text_of

        found = json.loads(text_of(calibration))
        self._put(lambda _: calibration_page(found), {"calibration.json": found})

    def write_trial(self, trial: Result) -> None:
        """Write the page of a trial."""
        from xtrace.analysis.trial.result import json_object, sentence, warnings
        from xtrace.cli.page.trial_page import trial_page

        found = json_object(trial)
        self._put(lambda _: trial_page(found, sentence(trial), warnings(trial)), {"trial.json": found})

    def write_trial_diff(self, found: Mapping[str, Any]) -> None:
        """Write the page of two trials; ``found``: what ``diff --json`` prints of them."""
        from xtrace.cli.page.trial_page import trial_diff_page

        self._put(lambda _: trial_diff_page(found), {"diff.json": found})

    def _put(self, page_with: Callable[[int], Page], data: Mapping[str, Any]) -> None:
        """Write a page; ``page_with``: makes it, with at most that many rows in a table."""
        text = page_text(page_with, data, self._hashing.origin())
        if str(self._target) == STDOUT:
            sys.stdout.write(text)
            return
        replace_text(self._target, text)


def page_text(page_with: Callable[[int], Page], data: Mapping[str, Any], origin: Origin) -> str:
    """Return a page of at most MOST_BYTES; ``page_with``: makes it, with up to N rows in a table."""
    from xtrace.cli.page.document import MOST_BYTES, document
    from xtrace.cli.page.tables import MOST_ROWS

    text = document(page_with(MOST_ROWS), data, origin)
    if len(text.encode()) > MOST_BYTES:
        text = document(page_with(_FEW_ROWS), {}, origin)
    return text


def _must_be_writable(target: Path) -> None:
    if target.is_dir():
        raise TraceError(f"--html {target}: is a folder; give the name of a file")
    if not target.parent.is_dir():
        raise TraceError(f"--html {target}: the folder {target.parent} does not exist")


def _calibration(path: Path) -> Any:
    from xtrace.probes.timing.calibration import read, text_of

    return json.loads(text_of(read(path)))


def _trial(path: Path) -> dict[str, Any]:
    from xtrace.analysis.trial.result import json_object, read

    return json_object(read(path))


def _image(image: GuestImage) -> dict[str, Any]:
    """Return the sites of an image as ``xtrace sites --json`` prints them, and the domain that runs it."""
    from xtrace.symbols.image.image import open_image
    from xtrace.symbols.listing.export import json_object
    from xtrace.symbols.sites.finder import find_sites

    table = find_sites(open_image(image.path))
    return {"domain": str(image.domain), **json_object(table, table.sites)}
