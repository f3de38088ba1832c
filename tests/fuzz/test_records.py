"""Log entries and the groups that they commit to."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.formats import merkle, record
from broker.formats.record import GROUPS, Entry
from tests.formats.test_canonical_json import VALUES
from tests.fuzz.mutations import altered, damaged, spelled
from tests.fuzz.outcome import effort, holds, taken

ROOT = bytes(range(32))
ENTRY: dict[str, Any] = {"agent_tag": "00ff", "kind": "CallRefused", "root": ROOT.hex(), "seq": 7, "v": 1}
WRITTEN = record.entry("CallRefused", "00ff", 7, ROOT)
OBJECTS = st.dictionaries(st.sampled_from(GROUPS), VALUES, max_size=7)
SALTS = st.binary(min_size=record.SALTS_BYTES, max_size=record.SALTS_BYTES)


@effort(200)
@given(
    st.sampled_from(["TokenIssued", "a.b", "", "1", "x" * 65, "é", "a\n"]) | st.text(max_size=8),
    st.sampled_from(["", "00ff", "a" * 129, '"', "\\", "\x7f", "\n"]) | st.text(max_size=8),
    st.integers(-1, 2**54),
    st.just(ROOT) | st.binary(max_size=40),
)
def test_an_entry_is_written_so_that_it_is_read_back(kind: str, tag: str, seq: int, root: bytes) -> None:
    """What is written is canonical JSON and comes back whole; nothing else is written."""
    data = taken(lambda: record.entry(kind, tag, seq, root))
    if data is None:
        return
    assert record.parse_entry(data) == Entry(kind, tag, seq, root)
    members = {"agent_tag": tag, "kind": kind, "root": root.hex(), "seq": seq, "v": 1}
    assert data == json.dumps(members, sort_keys=True, separators=(",", ":")).encode()


@effort(300)
@given(altered(ENTRY, odd=st.sampled_from([1.0, 7.0, "A" * 64, "0" * 64])).flatmap(spelled) | damaged(WRITTEN))
def test_an_entry_has_one_spelling(data: bytes) -> None:
    """What is read as an entry is exactly what would be written for it."""
    found = taken(lambda: record.parse_entry(data))
    if found is not None:
        assert record.entry(found.kind, found.agent_tag, found.seq, found.root) == data


@effort(100)
@given(OBJECTS, SALTS, st.sets(st.sampled_from(GROUPS)), st.data())
def test_a_group_opens_its_own_commitment_and_no_other(
    groups: dict[str, Any], salts: bytes, shown: set[str], data: st.DataObject
) -> None:
    """Any choice of groups can be shown; one with another salt, content or name cannot."""
    made = record.commit_groups(groups, salts)
    leaves = [made.commitments[at : at + 32] for at in range(0, len(made.commitments), 32)]
    assert made.root == merkle.root_of(leaves) == record.groups_root(made.commitments)
    opened = {
        name: (salts[at * 16 : at * 16 + 16], made.contents[at]) for at, name in enumerate(GROUPS) if name in shown
    }
    record.verify_groups(made.root, made.commitments, opened)
    broken = data.draw(damaged(made.commitments))
    assert holds(lambda: record.verify_groups(made.root, broken, {})) is (broken == made.commitments)
    name = data.draw(st.sampled_from(GROUPS))
    salt, content = opened.get(name, (bytes(16), b""))
    wrong = (data.draw(damaged(salt)), data.draw(damaged(content)))
    at = GROUPS.index(name)
    right = wrong == (salts[at * 16 : at * 16 + 16], made.contents[at])
    assert holds(lambda: record.verify_groups(made.root, made.commitments, {name: wrong})) is right


@effort(100)
@given(
    st.dictionaries(st.sampled_from([*GROUPS, "Who", "", "more"]), VALUES | st.just(float("nan")), max_size=8), SALTS
)
def test_groups_are_committed_to_or_refused(groups: dict[str, Any], salts: bytes) -> None:
    """A group that no record has, and what JSON cannot say, is refused; absent differs from empty."""
    made = taken(lambda: record.commit_groups(groups, salts))
    if made is not None:
        assert set(groups) <= set(GROUPS)
        assert [bool(content) for content in made.contents] == [name in groups for name in GROUPS]
