"""Counters are read from JSON, CSV and logs; other files are refused in one line."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from xtrace.analysis.cost.guest_counters import Rates, read
from xtrace.probes.errors import TraceError

COUNTERS = '{"mask": 12, "save": 5, "upcall": 3}'


def read_text(tmp_path: Path, text: str) -> Rates:
    path = tmp_path / "rates"
    path.write_text(text)
    return read(path)


def test_the_lab_guests_counters(tmp_path: Path) -> None:
    log = 'guest: counters {"mask": 1}\nguest: upcall 7 8\nguest: counters ' + COUNTERS + "\r\nguest: done\n"
    found = read_text(tmp_path, log)
    assert (found.counts, found.seconds) == ({"mask": 12, "save": 5, "upcall": 3}, None)
    assert found.over(None) == found.over(7.0) == 1.0
    assert read_text(tmp_path, COUNTERS).counts == found.counts


@pytest.mark.parametrize(
    "text",
    [
        '{"counts": {"mask": 50, "0x1000": 20}, "seconds": 10, "domain": 3}',
        '{"mask": 50, "0x1000": 20, "seconds": 10, "domain": 3}',
        '{"per_s": {"mask": 5, "0x1000": 2}, "seconds": 10, "domain": 3}',
    ],
)
def test_counts_with_seconds(tmp_path: Path, text: str) -> None:
    found = read_text(tmp_path, text)
    assert (found.counts, found.seconds, found.domain) == ({"mask": 50, "0x1000": 20}, 10, 3)
    assert found.counted
    assert found.over(2.0) == pytest.approx(0.2)
    assert found.over(None) is None


@pytest.mark.parametrize("packed", [gzip.compress, lzma.compress])
def test_compressed_files_read_the_same(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    log = f"guest: counters {COUNTERS}\n".encode()
    path = tmp_path / "log"
    path.write_bytes(packed(log))
    assert read(path).counts == {"mask": 12, "save": 5, "upcall": 3}
    path.write_bytes(packed(log * 1000)[:-6])
    with pytest.raises(TraceError, match="damaged or cut short"):
        read(path)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(bytes(1 << 25)))
    with pytest.raises(TraceError, match="larger than"):
        read(path)


def test_a_folder_has_no_counters(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_rates_alone(tmp_path: Path) -> None:
    found = read_text(tmp_path, '{"per_s": {"mask": 5}}')
    assert (found.counts, found.seconds, found.counted) == ({"mask": 5}, 1.0, False)
    assert found.over(4.0) == 4.0


def test_weights_of_contexts(tmp_path: Path) -> None:
    found = read_text(
        tmp_path, '{"counts": {"mask": 5}, "contexts": {"empty": 3, "load_miss_1": 1, "site": 0}}'
    )
    assert found.contexts == {"empty": 0.75, "load_miss_1": 0.25}


def test_csv(tmp_path: Path) -> None:
    found = read_text(tmp_path, "name,count,seconds\nspllower+0x12,7,2\nunmask(),9,2\n")
    assert (found.counts, found.seconds) == ({"spllower+0x12": 7, "unmask()": 9}, 2.0)
    found = read_text(tmp_path, "per_s,name\n7.5,mask\n")
    assert (found.counts, found.counted) == ({"mask": 7.5}, False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "neither JSON nor CSV"),
        ("{}", "no counter"),
        ("{", "Expecting"),
        ('{"counts": {"mask": 1}, "per_s": {}}', "both"),
        ('{"counts": {"mask": 1}, "second": 3}', "'second' is not one of"),
        ('{"counts": [1]}', "not an object"),
        ('{"mask": -1}', "not a count"),
        ('{"mask": NaN}', "not a count"),
        ('{"mask": 1e400}', "not a count"),
        ('{"mask": true}', "not a number"),
        ('{"mask": [1]}', "not a number"),
        ('{"counts": {"mask": 1}, "seconds": 0}', "seconds is 0"),
        ('{"counts": {"mask": 1}, "domain": "x"}', "domain is"),
        ('{"counts": {"mask": 1}, "contexts": {"hot": 1}}', "'hot' is not one of the contexts"),
        ('{"counts": {"mask": 1}, "contexts": {"empty": 0}}', "the weights of contexts add up to 0"),
        ("name,count\nmask,1\nmask,2\n", "twice"),
        ("name,count\n,1\n", "without a name"),
        ("name,count\nmask\n", "not a number"),
        ("name,count,seconds\na,1,2\nb,1,3\n", "differ in seconds"),
        ("[" * 100_000, "neither"),
        ('{"a": ' * 100_000, "recursion"),
        ("name,count\n" + "x" * 200_000 + ",1", "field larger"),
    ],
)
def test_invalid_files_are_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_text(tmp_path, text)
    assert says in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_counts_that_are_text_or_from_a_log_are_doubted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"counts": {"mask": "5", "restore": 6}, "seconds": 1}')
    (doubt,) = read(path).doubts
    assert doubt.startswith("1 of its 2 counts are text, such as '5'")
    path.write_text('{"counts": {"mask": 5}, "seconds": 1}')
    assert read(path).doubts == ()
    path.write_text('a: counters {"mask": 4}\na: counters {"mask": 5}\n')
    assert "the last of 2 lines of a log" in read(path).doubts[0]
    path.write_text('a: counters {"counts": {"mask": 5}, "seconds": 2}\n')
    assert read(path).doubts == ()


@pytest.mark.parametrize("text", ["1_000", "0x10", "five", "1e400", "-3", "nan"])
def test_text_that_is_no_decimal_number_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "file"
    path.write_text(f'{{"counts": {{"mask": "{text}"}}}}')
    with pytest.raises(TraceError, match="mask is"):
        read(path)
