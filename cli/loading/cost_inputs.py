"""What `xtrace report` is given for the cost of fences, beside the trace."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from xtrace.analysis.cost.guest_counters import Rates
    from xtrace.analysis.measures.measures import Measures

_HINT = "--rates"


def read_rates(texts: Sequence[str], domains: Sequence[int]) -> dict[int, Rates]:
    """Read guests' counters, each ``FILE`` or ``DOMAIN=FILE``, by domain.

    Args:
        domains: those with an image; of a single one the counters are, where nothing says whose they are.

    Raises:
        OSError, TraceError: a file cannot be read, or is none.
    """
    from xtrace.analysis.cost.guest_counters import read

    rates: dict[int, Rates] = {}
    for text in texts:
        named = re.fullmatch(r"(?:(\d{1,5})=)?(.+)", text, re.ASCII | re.DOTALL)
        if named is None:
            raise typer.BadParameter(f"{text!r} is not FILE or DOMAIN=FILE", param_hint=_HINT)
        found = read(Path(named[2]))
        domain = found.domain if named[1] is None else int(named[1])
        if domain is None and len(domains) == 1:
            domain = domains[0]
        if domain is None:
            raise typer.BadParameter(
                f"{text}: whose counters? Say DOMAIN=FILE, or give one --kernel", param_hint=_HINT
            )
        if domain in rates:
            raise typer.BadParameter(f"two files for domain {domain}", param_hint=_HINT)
        rates[domain] = found
    return rates


def refuse_window(rates: Mapping[int, Rates], window: str) -> None:
    """Refuse counts of the whole trace where only a part of it is counted.

    Args:
        window: the part in words; empty for the whole.
    """
    for found in rates.values():
        if window and found.seconds is None:
            raise typer.BadParameter(
                f"{found.path} says not how long it was counted (seconds), so it is of the whole trace: "
                f"not for {window}",
                param_hint=_HINT,
            )


def other_capture(text: str) -> tuple[int, Path, int]:
    """Return the domain, the trace and the domain in it of ``DOMAIN=TRACE[@DOMAIN]``."""
    found = re.fullmatch(r"(\d{1,5})=(.+?)(?:@(\d{1,5}))?", text, re.ASCII | re.DOTALL)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=TRACE or DOMAIN=TRACE@DOMAIN", param_hint="--unfenced"
        )
    return int(found[1]), Path(found[2]), int(found[3] or found[1])


def read_captures(
    others: Sequence[tuple[int, Path, int]], *, strict: bool
) -> dict[int, tuple[Measures, int]]:
    """Read the captures of unfenced kernels, each once, by the domain that they are compared with.

    Raises:
        OSError, TraceError: a trace cannot be read.
    """
    if not others:
        return {}
    from xtrace.analysis.cost.paired_captures import measures_of
    from xtrace.analysis.partial.summary_file import combined
    from xtrace.cli.loading.reading import Reading
    from xtrace.cli.loading.summaries import Loading

    read: dict[Path, Measures] = {}
    found = {}
    for domain, path, other in others:
        if path not in read:
            loading = Loading([path], Reading(strict, None, None, None))
            try:
                whole = combined(loading.result())
            except BaseException:
                loading.stop()
                raise
            read[path] = measures_of(whole.partial, whole.origin.tsc_hz)
        found[domain] = read[path], other
    return found
