"""Set aside, by rule, the mutants whose change no test could or should notice.

======================= ===================================================================================
annotation              inside a type annotation, which nothing evaluates (a loop's has nothing to mutate)
docstring               inside a string that is a statement by itself
message wording         inside a ``raise``, or an f-string with a space in it: a sentence and not a name
loop or dataclass flag  a decorator of loops is removed, or an argument of ``dataclass``
======================= ===================================================================================

All other mutants count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from cosmic_ray.work_item import MutationSpec

#: First and last position of a piece of source, both (line, column in characters).
Span = tuple[tuple[int, int], tuple[int, int]]

#: The decorators of probes/compiled/loop.py.
_COMPILES = ("loop", "part", "inlined_part")
REASONS = ("annotation", "docstring", "message wording", "loop or dataclass flag")


@dataclass(frozen=True, slots=True)
class Aside:
    """The pieces of one module's source in which mutants are set aside."""

    spans: tuple[tuple[Span, str], ...]
    compiles: frozenset[int]

    def reason(self, mutation: MutationSpec) -> str:
        """Return why a mutant is set aside, or "" if it counts."""
        start, end = tuple(mutation.start_pos), tuple(mutation.end_pos)
        if mutation.operator_name.endswith("RemoveDecorator"):
            return "loop or dataclass flag" if start[0] in self.compiles else ""
        for (first, last), why in self.spans:
            if first <= start and end <= last:
                return why
        return ""


def of_source(source: str) -> Aside:
    """Return what is set aside in a module's source."""
    lines = source.splitlines()
    tree = ast.parse(source)
    compiles = {
        decorator.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if _called(decorator) in _COMPILES
    }
    return Aside(tuple(_spans(tree, lines)), frozenset(compiles))


def _spans(tree: ast.Module, lines: list[str]) -> Iterator[tuple[Span, str]]:
    for node in ast.walk(tree):
        for piece, why in _pieces(node):
            yield _span(piece, lines), why


def _pieces(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield node.annotation, "annotation"
    if isinstance(node, ast.FunctionDef) and node.returns is not None:
        yield node.returns, "annotation"
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and _called(decorator) == "dataclass":
                yield decorator, "loop or dataclass flag"
    if (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ):
        yield node, "docstring"
    if isinstance(node, ast.JoinedStr) and any(" " in text for text in _texts(node)):
        yield node, "message wording"
    if isinstance(node, ast.Raise) and node.exc is not None:
        yield node.exc, "message wording"


def _texts(joined: ast.JoinedStr) -> Iterator[str]:
    for part in joined.values:
        if isinstance(part, ast.Constant):
            yield str(part.value)


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def _span(node: ast.expr | ast.stmt, lines: list[str]) -> Span:
    """Return a node's place with columns in characters, as parso counts them; ast counts bytes."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None

    def column(line: int, offset: int) -> int:
        return len(lines[line - 1].encode()[:offset].decode())

    start = node.lineno, column(node.lineno, node.col_offset)
    return start, (node.end_lineno, column(node.end_lineno, node.end_col_offset))
