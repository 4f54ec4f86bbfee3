"""Every length of every record in every Xen, against the catalogue.

The table below was extracted from Xen's sources independently of the catalogue's
tables, as plain numbers: id, then versions=lengths, with "u" for an untimed record.
"""

from __future__ import annotations

from xtrace.probes import event_ids as ids
from xtrace.probes.catalog import EVENTS, VersionRange
from xtrace.probes.format import TraceClass

LAST = 22
Shape = tuple[int, int, bool, int]

HISTORY = """
0x1f001 4.0+=4
0x1f002 4.0+=0-7u 4.0+=6,7
0x1f003 4.0+=2u
0x1f004 4.0-4.1=3
0x21001 4.0+=1
0x21002 4.0+=1
0x21011 4.0+=1
0x21021 4.0+=1
0x21031 4.0+=1
0x21101 4.0+=1
0x21111 4.0+=1
0x21121 4.0+=1
0x21131 4.0+=1
0x21201 4.0+=1
0x21211 4.0+=1
0x21221 4.0+=1
0x21231 4.0+=1
0x21301 4.0+=1
0x21311 4.0+=1
0x21321 4.0+=1
0x21331 4.0+=1
0x22001 4.3+=0
0x22002 4.1-4.2=2u 4.3+=3
0x22003 4.1-4.2=3 4.3+=3
0x22004 4.3+=3
0x22005 4.1-4.2=2 4.3+=3
0x22006 4.1-4.2=1u 4.3-4.6=1u 4.7+=1
0x22007 4.1-4.2=3 4.7+=2
0x22008 4.1-4.2=0u 4.7+=2
0x22009 4.8+=1
0x2200a 4.1-4.2=2 4.8+=2
0x2200b 4.1-4.2=2 4.9+=2
0x2200c 4.1-4.2=2
0x22202 4.3-4.6=2u 4.7+=2
0x22203 4.3-4.6=3 4.7-4.9=3 4.10+=4
0x22205 4.3-4.6=2 4.7-4.9=2 4.10+=3
0x22206 4.3-4.6=1u 4.7+=1
0x22207 4.3-4.6=4 4.7-4.10=4 4.11+=3
0x22208 4.3-4.6=0u 4.7+=0
0x22209 4.8+=0
0x2220a 4.3-4.6=2 4.7+=2
0x2220b 4.3-4.6=2 4.7=2 4.8+=4
0x2220c 4.3-4.7=2 4.8+=6
0x2220d 4.8+=3
0x2220e 4.8+=1
0x2220f 4.8+=2
0x22210 4.8+=2
0x22211 4.8+=6
0x22213 4.8+=4
0x22214 4.8=3 4.9-4.10=4 4.11+=3
0x22215 4.8+=2
0x22216 4.8+=2
0x22217 4.9+=1
0x22801 4.5-4.6=1u 4.7+=1
0x22802 4.5-4.6=5,0 4.7+=5
0x22803 4.5-4.6=4 4.7-4.9=4 4.10+=6
0x22804 4.5-4.6=5 4.7-4.9=5 4.10+=6
0x22805 4.5-4.6=5 4.7+=0
0x22806 4.8+=1
0x22a01 4.10+=2
0x22a02 4.10+=2
0x22a03 4.10+=2
0x22a04 4.10+=2
0x22a05 4.10+=2
0x22a06 4.10+=0
0x28001 4.0-4.6=2 4.7+=1
0x28002 4.0+=1
0x28003 4.0+=2
0x28004 4.0+=2
0x28005 4.0+=2
0x28006 4.0+=2
0x28007 4.0+=3
0x28009 4.0+=1
0x2800a 4.0+=4
0x2800e 4.0-4.7=2 4.8+=3
0x2800f 4.0-4.7=3 4.8+=4
0x28010 4.1+=3
0x28011 4.9+=4
0x41001 4.7+=1
0x41002 4.7+=1
0x81001 4.0+=0
0x81002 4.0+=2
0x81003 4.19+=2
0x81102 4.0+=3
0x81103 4.19+=3
0x81401 4.2+=0
0x81402 4.2-4.18=2
0x81403 4.19+=2
0x81502 4.2-4.18=3
0x81503 4.19+=3
0x82001 4.0+=2u
0x82002 4.0-4.2=2u
0x82003 4.0+=2u
0x82004 4.0+=2u
0x82008 4.0-4.2=2u
0x82009 4.0-4.2=2u
0x8200b 4.0+=0u
0x8200c 4.0+=3u
0x8200d 4.0+=3u
0x8200e 4.0-4.12=5u 4.13+=6u
0x8200f 4.0+=0,1u
0x82010 4.0+=0u
0x82011 4.0+=0u
0x82012 4.0+=1u
0x82013 4.0+=1u
0x82014 4.0-4.2=2u
0x82015 4.0+=0u
0x82016 4.0+=1,2u
0x82017 4.0+=1,2u
0x82018 4.0+=0u
0x82019 4.0-4.2=1u
0x8201a 4.1+=2u
0x82020 4.0+=3u
0x82021 4.0+=6u
0x82022 4.2+=0u
0x82023 4.2+=1u
0x82024 4.2+=1u
0x82025 4.2+=0u
0x82101 4.0+=3u
0x82102 4.0+=3u
0x82108 4.0+=3u
0x82109 4.0+=3u
0x82114 4.0+=3u
0x82117 4.0-4.11=2,3u 4.12+=2,4u
0x82119 4.0+=2u
0x82126 4.11+=3u
0x82127 4.11+=3u
0x82216 4.0+=1,2u
0x82217 4.0+=1,2u
0x82317 4.0-4.11=2,3u 4.12+=2,4u
0x84001 4.5+=6
0x84002 4.5+=2
0x84003 4.5+=2
0x84004 4.5+=5
0x84005 4.5+=1
0x84006 4.5+=0
0x84007 4.5+=0
0x84008 4.5+=0
0x84009 4.5+=0
0x8400a 4.5+=0
0x8400b 4.5+=3
0x8400c 4.5+=1
0x8400d 4.5+=2
0x8400e 4.5+=1
0x8400f 4.5+=1
0x84010 4.5+=2
0x84011 4.5+=2
0x10f001 4.0+=1
0x10f002 4.0+=1
0x10f003 4.0+=1
0x10f004 4.0+=6u
0x10f005 4.0-4.17=4u 4.18+=4u
0x10f010 4.0-4.17=6u 4.18+=6u
0x10f011 4.0-4.17=6u 4.18+=6u
0x10f012 4.0-4.17=4u 4.18+=4u
0x201003 4.3+=2
0x201004 4.3+=3
0x201005 4.3+=1
0x201006 4.3+=1
0x201008 4.3-4.21=0
0x201009 4.3+=2
0x20100a 4.3+=2
0x20100c 4.3+=4
0x20100d 4.3+=1,2,3
0x201103 4.3+=3
0x201104 4.3+=5
0x201105 4.3+=2
0x201106 4.3+=2
0x201109 4.3+=4
0x20110a 4.3+=4
0x20110b 4.3+=6
0x20200e 4.3+=1,2,3
0x20f001 4.0-4.2=2
0x20f003 4.0-4.2=2
0x20f004 4.0-4.2=3
0x20f005 4.0-4.2=1
0x20f006 4.0-4.2=1
0x20f007 4.0-4.2=1
0x20f008 4.0-4.2=0
0x20f009 4.0-4.2=2
0x20f00a 4.0-4.2=2
0x20f00c 4.0-4.2=4
0x20f101 4.0-4.2=3
0x20f103 4.0-4.2=3
0x20f104 4.0-4.2=5
0x20f105 4.0-4.2=2
0x20f106 4.0-4.2=2
0x20f109 4.0-4.2=4
0x20f10a 4.0-4.2=4
0x20f10b 4.0-4.2=6
0x40f001 4.0+=3u
0x40f002 4.0+=1u
0x40f003 4.0+=1u
0x40f004 4.0+=1u
0x40f005 4.0+=1u
0x40f006 4.0+=3u
0x40f007 4.0+=1u
0x40f008 4.0+=4u
0x40f009 4.0-4.18=2u 4.19+=3u
0x40f00a 4.0-4.18=2u 4.19+=3u
0x40f00b 4.0-4.18=2u 4.19+=3u
0x40f00c 4.0+=2u
0x40f00d 4.0+=2u
0x40f00e 4.0+=2u
0x40f00f 4.0+=2u
0x40f101 4.0+=4u
0x40f102 4.0+=1u
0x40f103 4.0+=1u
0x40f104 4.0+=1u
0x40f105 4.0+=1u
0x40f106 4.0+=4u
0x40f107 4.0+=1u
0x40f108 4.0+=6u
0x40f109 4.0-4.18=3u 4.19+=4u
0x40f10a 4.0-4.18=3u 4.19+=4u
0x40f10b 4.0-4.18=3u 4.19+=4u
0x40f201 4.0+=5u
0x40f202 4.0+=2u
0x40f203 4.0+=2u
0x40f204 4.0+=2u
0x40f205 4.0+=2u
0x40f206 4.0+=5u
0x40f207 4.0+=2u
0x40f208 4.0+=7u
0x40f209 4.0-4.18=4u 4.19+=5u
0x40f20a 4.0-4.18=4u 4.19+=5u
0x40f20b 4.0-4.18=4u 4.19+=5u
0x801001 4.0+=2
0x801002 4.2+=4
0x801003 4.2+=6
0x802001 4.0-4.1=4 4.2+=3
0x802002 4.0-4.1=6 4.2+=3
0x802003 4.2+=7
0x802004 4.2+=7
0x802005 4.2+=3
0x802006 4.2+=7
0x802007 4.2+=1
0x802008 4.2+=3
0x8000000 4.1+=0-7u
"""

# 4.0.0 and 4.0.1 append a stale word to records written with HVMTRACE_ND; these are not.
NOT_PADDED = {0x82016, 0x82216, 0x82017, 0x82217, 0x82117, 0x82317, 0x82021}
#: The padded length is also that of another form, so the catalogue leaves it out.
AMBIGUOUS_PADDED = {(0x8200E, 6), (0x8200F, 1)}


def minors(span: VersionRange) -> range:
    return range(span.low.minor, (LAST if span.high is None else span.high.minor) + 1)


def lengths(text: str) -> list[int]:
    return list(range(8)) if text == "0-7" else [int(number) for number in text.split(",")]


def history() -> set[Shape]:
    """Return all (id, words, timed, minor version) of the table."""
    found = set()
    for line in HISTORY.split("\n"):
        if not line:
            continue
        event, *forms = line.split()
        for form in forms:
            versions, _, words = form.partition("=")
            timed = not words.endswith("u")
            for minor in minors(VersionRange.parse(versions)):
                for count in lengths(words.removesuffix("u")):
                    found.add((int(event, 16), count, timed, minor))
    return found


def padded(shapes: set[Shape]) -> set[Shape]:
    return {
        (event, words + 1, timed, 0)
        for event, words, timed, minor in shapes
        if minor == 0 and event & 0xFF000 in (0x81000, 0x82000)
        if event not in NOT_PADDED and (event, words + 1) not in AMBIGUOUS_PADDED
    }


def test_the_catalogue_has_the_lengths_of_every_version() -> None:
    catalogue = {
        (event.id, words, layout.timed, minor)
        for event in EVENTS
        for layout in event.layouts
        for words in layout.words
        for minor in minors(VersionRange(layout.since, layout.until))
        if event.id & 0xFFFFF000 != ids.EVTCHN  # no release writes them
    }
    written = history()
    expected = written | padded(written)
    assert sorted(catalogue - expected) == []
    assert sorted(expected - catalogue) == []


def test_the_table_covers_every_class() -> None:
    ids = {event for event, *_ in history()}
    assert all(any(event & cls for event in ids) for cls in TraceClass)
    assert len(ids) > 230


def test_fields_cover_all_words_but_known_padding() -> None:
    """Words that no field covers are padding, and each case is listed."""
    bare = {
        (event.id, layout.since.minor, words)
        for event in EVENTS
        for layout in event.layouts
        for words in layout.words
        if not layout.note and words != sum({f.word: f.words for f in layout.present(words)}.values())
    }
    assert {key for key in bare if key[0] != 0x1F002} == {
        (0x2220C, 8, 6),
        (0x22211, 8, 6),
        (0x10F005, 0, 4),
        (0x10F010, 0, 6),
        (0x10F011, 0, 6),
        (0x10F012, 0, 4),
    }
