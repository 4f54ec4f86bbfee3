"""The page of a comparison of captures, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtrace.cli.page.figure import Fact, Page, Said
from xtrace.cli.page.figures import changes, ecdf
from xtrace.cli.page.words import name_text

#: Domains whose distributions are drawn.
_MOST_DOMAINS = 12


def diff_page(found: Mapping[str, Any]) -> Page:
    """Return the page."""
    rows = found["rows"]
    differing = [row for row in rows if row["differs"]]
    figures = [changes.changes(found)]
    # Times are in ns, which are cycles of 1 GHz, or in cycles if no rate is known.
    rate = 1e9 if all(each["unit"] == "ns" for each in found["distributions"]) else None
    for domain, pair in changes.overlaid(found["distributions"])[:_MOST_DOMAINS]:
        figures.append(
            ecdf.ecdf(
                f"wake-times-{len(figures)}",
                f"From wake to running: {name_text(domain)}",
                "All wakes of the domain's vCPUs, in all old and in all new captures together.",
                [
                    ecdf.Curve(
                        each["group"],
                        each["upto"],
                        each["upto_counts"],
                        each["quality"],
                        each["place"],
                        each["group"],
                    )
                    for each in pair
                ],
                rate,
                [changes.distribution_table(pair, rate)],
            )
        )
    method = found["method"]
    if differing:
        count = len(differing)
        said = f"{count} of {len(rows)} metrics changed by more than chance explains"
    else:
        said = f"None of {len(rows)} metrics is shown to have changed"
    return Page(
        "xtrace diff",
        f"{_group(found['old'])} against {_group(found['new'])}",
        [
            Fact("old captures", str(len(found["old"]))),
            Fact("new captures", str(len(found["new"]))),
            Fact("changed", str(len(differing)), "", f"of {len(rows)} rows"),
            Fact(
                "test", "rank test", "", f"{method['test']}; {method['together']}, alpha {method['alpha']:g}"
            ),
            Fact(
                "captures needed",
                str(method["runs_needed"]),
                "method.runs_needed",
                "per group, for this many rows",
            ),
        ],
        [Said("missing", name_text(text, 600)) for text in found["warnings"]],
        [figure for figure in figures if figure is not None],
        f"{said} ({method['together']}, alpha {method['alpha']:g}).",
        said_title="What speaks against the comparison",
    )


def _group(names: list[str]) -> str:
    first = name_text(names[0], 80)
    return first if len(names) == 1 else f"{first} and {len(names) - 1} more"
