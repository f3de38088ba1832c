"""A watch that verifies records: whatever one of them is, every other one counts, and nothing is told twice."""

from __future__ import annotations

import pytest

from broker.cli.alarms import Sought
from broker.cli.answers import ApiFailed
from broker.formats import note, record
from tests.cli.stand_in_log import erasure, made
from tests.cli.watched import Watched


def test_new_records_are_verified_and_chosen_ones_told(watched: Watched) -> None:
    """From the first look on: by kind, by outcome, or both; each with what it holds."""
    watched.records = True
    watched.sought = Sought(frozenset({"TokenIssued"}), "permit")
    assert watched.words() == []
    for number, (kind, outcome) in enumerate((("TokenIssued", "deny"), ("CallAdmitted", "permit"))):
        watched.log.add(made("agent-0", 31 + number, kind, outcome))
    watched.log.add(made("agent-1", 31, "TokenIssued", "permit"))
    watched.log.sign()
    (alarm,) = watched.look()
    assert alarm.what == "event"
    assert (alarm.more["index"], alarm.more["kind"], alarm.more["outcome"]) == (302, "TokenIssued", "permit")
    assert alarm.more["groups"]["what"] == {"model": "m"}
    assert watched.words() == []


def test_gaps_and_records_of_no_tree_are_told_and_gone_behind(watched: Watched) -> None:
    """Each once with its index; none hides what comes after it, nor does a restart forget an agent's last number."""
    watched.records = True
    assert watched.words() == []
    watched.log.add(made("agent-0", 31))
    watched.log.sign()
    assert watched.words() == []
    watched.log.add(made("agent-0", 33))
    watched.log.sign()
    (alarm,) = watched.look()
    assert (alarm.what, alarm.more) == ("number_gap", {"index": 301})
    assert "the number 33" in alarm.detail
    watched.log.add(made("agent-0", 34))
    watched.log.add(made("agent-0", 36))
    watched.log.sign()
    watched.log.records[302]["groups"]["what"]["content"] = "{}"
    invalid, gap = watched.look()
    assert (invalid.what, invalid.more) == ("record_invalid", {"index": 302})
    assert (gap.what, gap.more) == ("number_gap", {"index": 303})
    assert watched.words() == []


def test_a_record_that_nobody_can_read_hides_none_behind_it(watched: Watched) -> None:
    """What it committed to is no JSON, so it is proved and told; the one behind it is verified, and told as sought."""
    watched.records = True
    watched.sought = Sought(frozenset({"LogKeyRotated"}), "")
    assert watched.words() == []
    salt, commitments = bytes(16), b"".join(record.commitment(name, bytes(16), b"{") for name in record.GROUPS)
    watched.log.add(
        {
            "entry": note.encode_base64(record.entry("TokenIssued", "agent-0", 31, record.groups_root(commitments))),
            "commitments": note.encode_base64(commitments),
            "groups": {name: {"salt": note.encode_base64(salt), "content": "{"} for name in record.GROUPS},
        }
    )
    watched.log.add(made("agent-1", 31, "LogKeyRotated"))
    watched.log.sign()
    unreadable, sought = watched.look()
    assert (unreadable.what, unreadable.more) == ("record_invalid", {"index": 300})
    assert (sought.what, sought.more["index"]) == ("event", 301)


def test_records_that_are_withheld_are_told(watched: Watched) -> None:
    """An entry under the checkpoint without its record."""
    watched.records = True
    assert watched.words() == []
    watched.log.grow(302)
    watched.log.records.pop()
    (alarm,) = watched.look()
    assert (alarm.what, alarm.more) == ("record_invalid", {"index": 301})


def _told(watched: Watched) -> list[tuple[str, object]]:
    return [(alarm.what, alarm.more.get("index")) for alarm in watched.look()]


@pytest.mark.parametrize("how", ["altered", "dropped", "doubled", "moved", "garbage"])
def test_one_bad_record_of_a_page_hides_none_beside_it(watched: Watched, how: str) -> None:
    """Those before it and behind it in the page are verified and told, in the same look."""
    log = watched.log
    watched.records, watched.sought = True, Sought(outcome="deny")
    assert watched.words() == []
    log.grow(307)
    if how == "altered":
        log.records[304]["groups"]["what"]["content"] = "{}"
    elif how == "dropped":
        del log.records[304]
    elif how == "doubled":
        log.records.insert(304, {**made("agent-3", 2), "index": 304})
    elif how == "moved":
        log.records[304] = {**log.records[305], "index": 304}
    else:
        log.records[304] = {"index": 304, "entry": 5}
    told = _told(watched)
    assert [each for each in told if each[0] != "event"] == [("record_invalid", 304)]
    assert [index for what, index in told if what == "event"] == [300, 301, 302, 303, 305, 306]
    assert watched.words() == []


def test_the_gap_at_a_record_that_does_not_hold_is_told(watched: Watched) -> None:
    """Its entry is the tree's, so its number counts although a group of it was altered."""
    watched.records = True
    assert watched.words() == []
    for number in (31, 33, 34):
        watched.log.add(made("agent-0", number))
    watched.log.sign()
    watched.log.records[301]["groups"]["what"]["content"] = "{}"
    assert _told(watched) == [("record_invalid", 301), ("number_gap", 301)]


def test_records_that_do_not_come_are_told_as_one(watched: Watched) -> None:
    """What the broker does not give up to its checkpoint is named with its bounds, and what comes later is read."""
    watched.records, watched.sought = True, Sought(outcome="deny")
    assert watched.words() == []
    watched.log.grow(310)
    del watched.log.records[303:]
    told = watched.look()
    assert [alarm.what for alarm in told] == ["event", "event", "event", "record_invalid"]
    assert "gives no records 303 to 309" in told[-1].detail
    watched.log.records += [{**made("agent-0", 1), "index": 303 + n} for n in range(7)]
    watched.log.add(made("agent-0", 32))
    watched.log.sign()
    assert _told(watched) == [("event", 310)]


def test_a_tile_that_does_not_verify_is_no_records_fault(watched: Watched) -> None:
    """It is told once, and the records under it are read when it does."""
    log = watched.log
    watched.records, watched.sought = True, Sought(outcome="deny")
    assert watched.words() == []
    log.grow(520)
    log.altered["/log/tile/0/001"] = bytes(8192)
    assert watched.words() == ["proof_invalid"]
    assert watched.words() == []
    log.altered.clear()
    assert _told(watched) == [("event", index) for index in range(300, 520)]


def test_a_group_that_was_taken_out_is_told(watched: Watched) -> None:
    """Unless the record of an erasure says so, before or behind what is new; one that is withheld is none of it."""
    log = watched.log
    watched.records = True
    assert watched.words() == []
    log.grow(305)
    for index in (300, 301, 302):
        del log.records[index]["groups"]["what"]
    log.records[303]["groups"].clear()
    log.records[304]["withheld"] = ["what"]
    del log.records[304]["groups"]["what"]
    log.add(erasure(1, ["what"], 0, 300))
    log.sign()
    log.add(erasure(2, ["what"], 301, 301))
    assert _told(watched) == [("group_missing", 301), ("group_missing", 302), ("group_missing", 303)]
    assert watched.words() == []


def test_an_erasure_behind_what_one_look_reads_excuses(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for, must be in the tree, and one that is not is told and excuses nothing."""
    monkeypatch.setattr("broker.cli.alarms._MOST_AT_ONCE", 2)
    log = watched.log
    watched.records = True
    assert watched.words() == []
    log.grow(304)
    del log.records[300]["groups"]["what"]
    del log.records[302]["groups"]["what"]
    log.add(erasure(1, ["what"], 300, 303))
    log.sign()
    assert watched.words() == []
    log.records[304]["groups"]["remedy"]["content"] = log.records[304]["groups"]["remedy"]["content"].replace(
        "303", "304"
    )
    assert _told(watched) == [("record_invalid", 304), ("group_missing", 302)]


def test_what_cannot_be_asked_about_now_is_asked_about_later(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that is gone is neither forgotten nor told as missing while the erasures cannot be read."""
    log = watched.log
    watched.records = True
    assert watched.words() == []
    log.grow(302)
    del log.records[300]["groups"]["what"]
    with monkeypatch.context() as patch:
        patch.setattr(log, "erasures", lambda *_: (_ for _ in ()).throw(ApiFailed("over")))
        assert watched.words() == ["no_records"]
        log.grow(303)
        assert watched.words() == []
    assert _told(watched) == [("group_missing", 300)]
    assert watched.words() == []


def test_an_outcome_that_is_not_shown_is_told_once(watched: Watched) -> None:
    """Whoever asked for outcomes learns that there are records of which nobody can say; until one can be seen again."""
    log = watched.log
    watched.sought, watched.records = Sought(frozenset({"TokenIssued"}), "deny"), True
    assert watched.words() == []
    for number, kind in enumerate(("CallRefused", "TokenIssued", "TokenIssued"), 31):
        log.add(made("agent-0", number, kind))
    for stated in log.records[300:]:
        del stated["groups"]["decision"]
        stated["withheld"] = ["decision"]
    log.sign()
    (alarm,) = watched.look()
    assert (alarm.what, alarm.more) == ("outcome_hidden", {"index": 301})
    assert "is withheld from you" in alarm.detail
    log.add(made("agent-0", 34, "TokenIssued"))
    log.sign()
    assert watched.words() == ["event"]
    log.add(made("agent-0", 35, "TokenIssued"))
    del log.records[304]["groups"]["decision"]
    log.sign()
    assert _told(watched) == [("outcome_hidden", 304), ("group_missing", 304)]
