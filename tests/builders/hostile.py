"""A report in which every text that comes from outside attacks the page: names, paths, findings, notes."""

from __future__ import annotations

import copy
import functools
from typing import Any

from builders.made_pages import cost
from xtrace.cli.page.document import document
from xtrace.cli.page.origin import Hashing
from xtrace.cli.page.report_page import report_page

#: Markup, ends of attributes and elements, terminal escapes, bidirectional text, length, what is not UTF-8,
#: formulas, ends of lines and of fields.
NAMES = (
    '<script>alert(1)</script><img src="http://example.org/x.png" onerror="alert(2)">',
    '"><svg onload=alert(3)><a href="javascript:alert(4)">x</a>',
    "</style></title></textarea>--><style>body{display:none}</style>{{ 7*7 }}{% raw %}",
    "\x1b[31mred\x1b]0;title\x07\x1b[2J\x00\x08\x7f",
    "\u202egnp.exe\u2066\u2069\u200b\u2028\ufeff",
    "x" * 10_000,
    b"\xff\xfe\x80name\xc3".decode("utf-8", "surrogateescape"),
    "http://example.org/ //example.org/ url(http://example.org/a.css) @import 'http://example.org/b.css'",
    "=1+1|' /C calc'!A0",
    'a\nb;c\t"d"\r, {e="f"} # 1\\',
    "n" * 65_536,
)


@functools.cache
def hostile_report() -> str:
    """Return the page of a report with a cost, in which each text is one of NAMES in turn."""
    found = _attacked(copy.deepcopy(cost().json), [0])
    found["trace"]["domains"] = {str(number): NAMES[number % len(NAMES)] for number in range(4)}
    page = report_page(found, NAMES, NAMES[0])
    return document(page, {"report.json": found}, Hashing([]).origin())


#: Keys whose values are text from outside.
_OUTSIDE = (
    "sentence", "usual", "source", "waker", "place", "fence", "entry", "basis", "reason", "remedy", "missing",
    "image", "note", "tsc_hz_source", "xen_versions", "executions_rule", "what", "meaning", "about",
)  # fmt: skip


def _attacked(value: Any, at: list[int]) -> Any:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _OUTSIDE and isinstance(item, str) and item:
                at[0] += 1
                value[key] = NAMES[at[0] % len(NAMES)] + str(at[0])
            elif key == "notes":
                value[key] = list(NAMES)
            else:
                value[key] = _attacked(item, at)
    elif isinstance(value, list):
        value[:] = [_attacked(item, at) for item in value]
    return value
