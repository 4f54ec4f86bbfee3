"""Recordings by xentrace that end badly: what was written is whole and counted, and nothing is left on."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from lab.checks import made
from lab.checks.made import chosen, folder, known, known_rows
from oracle.intact import whole
from oracle.reader import Trace, read
from peer.xenalyze import raw_records
from xtrace.probes.capture.layout import Capture, open_capture

ENDS = chosen("ends")
KILLS = chosen("kills")
ENDED = ("after", "joined", "beside", "stopped", "hung", "again")
CAPTURES = (*ENDED, "both")
KILL_COUNT = 50
#: Who is killed, by the number of the kill modulo three; None if the recorder lives and says why it ended.
VICTIMS = ("recorder", None, "both")
every = pytest.mark.parametrize("name", ENDS)


def said(name: str, what: str) -> str:
    return (folder(name) / f"{what}.said").read_text()


def capture(name: str, what: str) -> Capture:
    return open_capture(folder(name) / f"{what}.xtrace")


def path_of(name: str, what: str) -> Path:
    return folder(name) / f"{what}.xtrace" / "xentrace.bin"


@functools.cache
def records(name: str, what: str) -> Trace:
    return read(path_of(name, what).read_bytes())


def codes(name: str) -> dict[str, int]:
    return {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "code"}


def is_counted(name: str, what: str) -> bool:
    """Return whether xenalyze finds the records that are in a file, and the recorder counted these.

    A last window that is cut just between two of its records is left out, and said: it can also be one of
    which a part is missing.
    """
    trace = records(name, what)
    found = capture(name, what)
    more = len(raw_records(path_of(name, what))) - len(trace.records) - trace.wrap_count
    damages = whole(path_of(name, what).read_bytes(), chunk_bytes=1 << 20)[1].damages
    is_left_out = [damage.reason for damage in damages] == ["the file ends between two records of a window"]
    if more and (found.has_ended or more < 0 or not is_left_out):
        return False
    counts = found.meta["backends"]["xentrace"].get("counts", {})
    return not found.has_ended or counts.get("records") == len(trace.records)


def was_left_on(name: str, what: str, second: int) -> bool:
    """Return whether Xen's buffers have records of the time just before tracing was begun again."""
    before = int((folder(name) / f"{what}.before").read_text().split()[0])
    found = read((folder(name) / f"{what}.after").read_bytes()).records
    assert found
    return any(before - second < record.tsc < before for record in found)


@every
@pytest.mark.parametrize("what", CAPTURES)
def test_what_was_written_is_whole_and_counted(what: str, name: str) -> None:
    assert is_counted(name, what)
    assert len(records(name, what).records) > 0
    assert capture(name, what).has_ended == (what in ENDED)


@every
@pytest.mark.parametrize("what", ["after", "end"])
def test_tracing_is_not_left_on(what: str, name: str) -> None:
    assert not was_left_on(name, what, int(capture(name, "after").meta["tsc_hz"]))


@every
def test_both_killed_leave_what_the_next_start_removes(name: str) -> None:
    assert known(name)["notes_left"] != []
    assert codes(name)["after"] == 0
    assert known(name)["xentrace_left"] == ["0"]
    assert known(name)["notes_after"] == []


@every
def test_another_xentrace_that_starts_meanwhile_changes_the_mask_and_is_noticed(name: str) -> None:
    assert codes(name)["thief"] == 1
    assert "failed to bind to VIRQ port" in (folder(name) / "joined.err").read_text()
    assert "something else changed Xen's trace mask meanwhile" in said(name, "joined")
    facts = capture(name, "joined").meta["backends"]["xentrace"]["facts"]
    assert facts["event_mask"] == "0x2f000"
    assert "outside_mask" in facts
    assert "changed Xen's trace mask" not in said(name, "after")


@every
def test_top_beside_a_recorder_takes_nothing_from_it(name: str) -> None:
    assert codes(name)["top"] == 1
    assert (folder(name) / "top.err").read_text().count("\n") == 1
    assert "at least" not in said(name, "beside").splitlines()[-1]


@every
def test_a_recorder_that_stood_still_counts_all_that_xentrace_wrote(name: str) -> None:
    lost = sum(item.words[0] for item in records(name, "stopped").records if item.event == made.LOST_RECORDS)
    assert capture(name, "stopped").lost == {"xentrace": lost}
    tscs = [item.tsc for item in records(name, "stopped").records if item.tsc]
    assert max(tscs) - min(tscs) > 10 * capture(name, "stopped").meta["tsc_hz"]


@every
def test_a_hangup_ends_it_as_a_signal_does(name: str) -> None:
    assert capture(name, "hung").meta["end_reason"] == "signal"


@every
def test_a_domain_that_comes_again_is_another_one(name: str) -> None:
    rows = {row["id"]: row for row in capture(name, "again").meta["domains"]}
    first, second = (int(known(name)[key][0]) for key in ("domid_a", "domid_again"))
    assert first != second
    assert (rows[first]["name"], rows[second]["name"]) == ("a", "a")
    assert rows[first]["seen"]["to"] is not None
    assert rows[second]["seen"]["to"] is None


@every
def test_too_little_memory_is_one_line(name: str) -> None:
    assert codes(name)["poor"] == 1
    assert "memory" in said(name, "poor").splitlines()[-1]
    assert "Traceback" not in said(name, "poor")


@pytest.mark.parametrize("name", KILLS)
def test_fifty_kills_lose_nothing_that_was_written(name: str) -> None:
    for number in range(1, KILL_COUNT + 1):
        assert is_counted(name, f"kill{number}"), number
        found = capture(name, f"kill{number}")
        assert found.has_ended == (VICTIMS[number % 3] is None), number
        if found.has_ended:
            assert "xentrace ended by itself, signal SIGKILL" in said(name, f"kill{number}"), number


@pytest.mark.parametrize("name", KILLS)
def test_fifty_kills_leave_nothing(name: str) -> None:
    left = {int(row[1]): int(row[2]) for row in known_rows(name) if row[0] == "left"}
    assert left == dict.fromkeys(range(1, KILL_COUNT + 1), 0)
    assert known(name)["notes_after"] == []
    assert codes(name)["last"] == 0
    assert not was_left_on(name, "end", int(capture(name, "last").meta["tsc_hz"]))
