"""Analyse traces: summaries, reports with tables as data frames, and comparisons.

The names in ``__all__`` are public; the modules that they come from are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtrace.lazy import exported

if TYPE_CHECKING:
    from xtrace.analysis.comparison.compare import Diff, diff
    from xtrace.analysis.export.events import Events, events
    from xtrace.analysis.loading.summaries import analyse
    from xtrace.analysis.report.build import Report, Selection, build_report
    from xtrace.analysis.report.json_schema import report_schema
    from xtrace.analysis.report.request import (
        Answer,
        GuestCounters,
        GuestImage,
        ReportRequest,
        RequestError,
        UnfencedCapture,
        make_report,
    )
    from xtrace.analysis.summary.summary_file import Summary, merge, read_summary, write_summary

__all__ = [
    "Answer",
    "Diff",
    "Events",
    "GuestCounters",
    "GuestImage",
    "Report",
    "ReportRequest",
    "RequestError",
    "Selection",
    "Summary",
    "UnfencedCapture",
    "analyse",
    "build_report",
    "diff",
    "events",
    "make_report",
    "merge",
    "read_summary",
    "report_schema",
    "write_summary",
]

#: Imported on first use, because they need NumPy and compiled loops.
__getattr__ = exported(
    __name__,
    {
        "Answer": "report.request",
        "Diff": "comparison.compare",
        "Events": "export.events",
        "GuestCounters": "report.request",
        "GuestImage": "report.request",
        "Report": "report.build",
        "ReportRequest": "report.request",
        "RequestError": "report.request",
        "Selection": "report.build",
        "Summary": "summary.summary_file",
        "UnfencedCapture": "report.request",
        "analyse": "loading.summaries",
        "build_report": "report.build",
        "diff": "comparison.compare",
        "events": "export.events",
        "make_report": "report.request",
        "merge": "summary.summary_file",
        "read_summary": "summary.summary_file",
        "report_schema": "report.json_schema",
        "write_summary": "summary.summary_file",
    },
)
