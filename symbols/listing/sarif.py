"""Write the findings of an image as SARIF 2.1.0, which forges show at the lines of the source.

A finding without a source line is at the image itself.  Paths below the current folder are relative, as
forges need them.

Source: OASIS, Static Analysis Results Interchange Format 2.1.0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from xtrace.symbols.listing.compare import base_name
from xtrace.symbols.listing.gate import Finding
from xtrace.symbols.sites.model import SiteTable, where

SCHEMA = "https://raw.githubusercontent.com/oasis-tcs/sarif-spec/master/Schemata/sarif-schema-2.1.0.json"
_VERSION = "2.1.0"
#: By finding: the level, and what it means.
_RULES: Mapping[str, tuple[str, str]] = {
    "removable": ("warning", "No upcall is lost if this fence is removed."),
    "replaceable": (
        "warning",
        "A byte store, and a test of pending, would do in place of the locked access.",
    ),
    "undecided": ("note", "The image alone does not decide whether this fence is needed."),
    "lost-upcall": ("error", "An upcall can be lost here."),
    "wide-store": ("error", "A store wider than the mask can undo what another CPU has set."),
    "test-before-store": ("error", "Pending is tested before the mask is cleared."),
    "no-pending-test": ("error", "The mask is cleared, and on some path pending is not tested afterwards."),
    "unlocked-handler": ("error", "The selector is used without a locked access after pending is cleared."),
    "take-before-clear": ("error", "The selector is taken before pending is cleared."),
    "clear-without-take": ("error", "Pending is cleared and the selector is not taken."),
    "unstable-pointer": ("warning", "Nothing shows that the thread stays on the CPU of this vcpu_info."),
    "unbalanced": ("warning", "Some paths return with the mask set, others clear it."),
}


def sarif_object(
    table: SiteTable,
    found: Iterable[Finding],
    accepted: Iterable[tuple[Finding, str]],
    *,
    version: str,
    root: Path,
) -> dict[str, Any]:
    """Return a SARIF log of one run.

    Args:
        found: findings; ``accepted``: those that are suppressed, with the reason.
        version: of this program.
        root: paths below it are made relative.
    """
    seen: Counter[str] = Counter()
    results = [_result(table, finding, root, seen) for finding in found]
    for finding, reason in accepted:
        result = _result(table, finding, root, seen)
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": reason}]
        results.append(result)
    rules = [
        {
            "id": name,
            "shortDescription": {"text": text},
            "defaultConfiguration": {"level": level},
        }
        for name, (level, text) in _RULES.items()
    ]
    driver = {"name": "xtrace", "semanticVersion": version, "rules": rules}
    run = {
        "tool": {"driver": driver},
        "columnKind": "utf16CodeUnits",
        "results": results,
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {"level": "warning", "message": {"text": f"{table.path}: {text}"}}
                    for text in table.damage
                ],
            }
        ],
    }
    return {"$schema": SCHEMA, "version": _VERSION, "runs": [run]}


def _result(table: SiteTable, finding: Finding, root: Path, seen: Counter[str]) -> dict[str, Any]:
    site = finding.site
    level, _ = _RULES[finding.name]
    place = where(site)
    file, line = table.path, 0
    if site.place is not None and site.place.file:
        file, line = site.place.file, site.place.line
    physical: dict[str, Any] = {
        "artifactLocation": {"uri": _uri(file, root)},
    }
    if line > 0:
        physical["region"] = {"startLine": line}
    # Addresses change with each build: a finding is known by symbol, kind and its number among equal ones.
    key = f"{base_name(site.symbol) or site.section}/{site.kind}/{finding.name}"
    seen[key] += 1
    return {
        "ruleId": finding.name,
        "ruleIndex": list(_RULES).index(finding.name),
        "level": level,
        "message": {"text": f"{site.kind} at {place}: {finding.reason}"},
        "locations": [
            {
                "physicalLocation": physical,
                "logicalLocations": [{"fullyQualifiedName": place, "kind": "function"}],
            }
        ],
        # As text: many readers of SARIF have no integers as large as a kernel's addresses.
        "properties": {"address": f"{site.address:#x}", "code": site.text, "kind": str(site.kind)},
        "partialFingerprints": {"site/v1": f"{key}/{seen[key]}"},
    }


def _uri(file: str, root: Path) -> str:
    path = Path(file)
    if not path.is_absolute():
        return quote(str(PurePosixPath(file)))
    try:
        return quote(path.relative_to(root).as_posix())
    except ValueError:
        return path.as_uri()
