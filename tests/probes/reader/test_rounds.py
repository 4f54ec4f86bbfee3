"""Up to when each pCPU is covered, against a search through the last two rounds for each."""

from __future__ import annotations

import random

import numpy as np
import pytest

from xtrace.probes.reader.loops import KEY_FLOOR
from xtrace.probes.reader.rounds import Rounds


def expected(rounds: list[list[tuple[int, int]]], *, is_cut: bool) -> list[tuple[int, int]]:
    """Return what Rounds.ends() should, from the (pCPU, key) of each round's windows."""
    *older, before, last = rounds
    everything = [window for each in rounds for window in each]
    oldest = max((key for each in older for _, key in each), default=KEY_FLOOR)
    end = max(key for _, key in everything)
    last_pcpu, last_key = last[-1]
    found = []
    for pcpu in sorted({pcpu for pcpu, _ in everything}):
        is_quiet = pcpu > last_pcpu and pcpu not in {other for other, _ in before}
        if pcpu <= last_pcpu or is_quiet:
            read = before + [window for window in last if window[0] <= pcpu]
        else:
            read = [window for window in before if window[0] <= pcpu]
        covered = max([oldest, *(key for _, key in read)])
        if is_cut and pcpu == last_pcpu:
            covered = last_key
        if KEY_FLOOR < covered < end:
            found.append((pcpu, covered))
    return found


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("seed", range(100))
def test_ends(seed: int, is_cut: bool) -> None:
    chance = random.Random(seed)
    count, most = chance.randrange(2, 5), chance.choice((2, 4, 30))
    rounds: list[list[tuple[int, int]]] = []
    for _ in range(count):
        pcpus = sorted(chance.sample(range(most), chance.randrange(1, most + 1)))
        if rounds and pcpus[0] > rounds[-1][-1][0]:
            pcpus.insert(0, rounds[-1][-1][0])  # a round begins where the number of the pCPU does not rise
        rounds.append([(pcpu, chance.randrange(1, 1000)) for pcpu in pcpus])
    made = Rounds()
    for windows in rounds:
        made.note(np.array([pcpu for pcpu, _ in windows], np.int32), np.array([key for _, key in windows]))
    assert made.ends(is_cut=is_cut) == expected(rounds, is_cut=is_cut)
