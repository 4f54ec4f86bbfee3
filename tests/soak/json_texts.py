"""Damage JSON by its structure: numbers that fit no field, objects in place of numbers, depth, length."""

from __future__ import annotations

import json
import random
from typing import Any

#: Texts that take the place of a value; json.dumps could not write most of them.
_ODD = (
    "1" + "0" * 400, "-1" + "0" * 4000, "1" * 5000, "1e999", "-1e999", "NaN", "-0.0", "1e-320", "5e307",
    str(1 << 63), str(-(1 << 63) - 1), str((1 << 64) - 1), "-1", "0", "1.5", "true", "null", "{}", "[]",
    '""', '"1"', '{"a":1}', "[[1]]", "[null]", '"=HYPERLINK(1)"', '"\\u001b[2J"', '"\\ud800"', '"\\u202e"',
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each value inside, the whole first."""
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*path, key))
    return found


def damaged(chance: random.Random, value: Any) -> str:
    """Return the text of ``value`` with one to three places damaged."""
    value = json.loads(json.dumps(value))
    puts: dict[str, str] = {}
    for number in range(chance.choice((1, 1, 1, 2, 3))):
        # Half of all damage is near the top, where the fields are.
        found = places(value)
        short = [path for path in found if len(path) <= 2]
        path = chance.choice(short if chance.random() < 0.5 else found)
        mark = f"@@{number}@@"
        kind = chance.random()
        if not path or kind < 0.6:
            puts[json.dumps(mark)] = chance.choice(_ODD)
            value = _put(value, path, mark)
        elif kind < 0.75:
            value = _put(value, path, None, remove=True)
        elif kind < 0.85:
            puts[json.dumps(mark)] = "[" * 100_000 if chance.random() < 0.3 else "[" * 900 + "]" * 900
            value = _put(value, path, mark)
        elif kind < 0.92:
            puts[json.dumps(mark)] = json.dumps("x" * chance.choice((1000, 300_000)))
            value = _put(value, path, mark)
        else:
            puts[json.dumps(mark)] = "[" + "[]," * chance.choice((1000, 300_000)) + "0]"
            value = _put(value, path, mark)
    text = json.dumps(value)
    for mark, odd in puts.items():
        text = text.replace(mark, odd)
    if chance.random() < 0.08:
        text = text[: chance.randrange(len(text))]
    return text


def _put(value: Any, path: tuple[Any, ...], new: Any, *, remove: bool = False) -> Any:
    if not path:
        return new
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    if remove:
        del inside[path[-1]]
    else:
        inside[path[-1]] = new
    return value
