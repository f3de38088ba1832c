"""The log entry and its salted groups: frozen bytes, and nothing in them can be altered unseen."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import Malformed, ProofInvalid
from broker.formats import merkle, record
from broker.formats.canonical_json import canonical

SALTS = bytes(range(112))
GROUPS: dict[str, object] = {
    "who": {"agent": "ci/build"},
    "for_whom": {"subject": "alice"},
    "what": {"model": "openai/gpt-4o"},
    "decision": {"outcome": "permit"},
    "request": {"at": 1.5},
    "remedy": {},
}
ROOT = bytes(range(32))


def opened(committed: record.Committed) -> dict[str, tuple[bytes, bytes]]:
    """Every group's salt and content."""
    return {
        name: (SALTS[16 * place : 16 * place + 16], committed.contents[place])
        for place, name in enumerate(record.GROUPS)
    }


def test_the_entry_is_frozen() -> None:
    """These exact bytes are in logs; a change of the format orphans them."""
    assert record.entry("TokenIssued", "tag-1", 7, ROOT) == (
        b'{"agent_tag":"tag-1","kind":"TokenIssued",'
        b'"root":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","seq":7,"v":1}'
    )


def test_the_commitments_are_frozen() -> None:
    """These exact bytes are in logs: commitments and root of fixed groups under fixed salts, computed by hand."""
    committed = record.commit_groups(GROUPS, SALTS)
    expected = b""
    for place, name in enumerate(record.GROUPS):
        content = canonical(GROUPS[name]) if name in GROUPS else b""
        salted = b"\x00" + name.encode() + b"\x00" + SALTS[16 * place : 16 * place + 16] + content
        expected += hashlib.sha256(salted).digest()
    assert committed.commitments == expected
    assert committed.root.hex() == "a568fcd368b4cf89b4c6b739f54bcc3b3073aa07e6126e2e9dea9427aaaa2206"


@given(
    st.from_regex(r"[A-Za-z][A-Za-z0-9_.]{0,20}", fullmatch=True),
    st.text("abc-_/:. ~", max_size=20),
    st.integers(0, 2**53 - 1),
)
def test_the_entry_is_canonical_json_and_reads_back(kind: str, tag: str, seq: int) -> None:
    """Writing by hand gives what RFC 8785 asks, and reading gives back what was written."""
    data = record.entry(kind, tag, seq, ROOT)
    assert data == canonical({"v": 1, "kind": kind, "agent_tag": tag, "seq": seq, "root": ROOT.hex()})
    assert record.parse_entry(data) == record.Entry(kind, tag, seq, ROOT)


@pytest.mark.parametrize(
    ("kind", "tag", "seq", "root"),
    [
        ("", "t", 0, ROOT), ('a"b', "t", 0, ROOT), ("1a", "t", 0, ROOT), ("a" * 65, "t", 0, ROOT), ("ä", "t", 0, ROOT),
        ("Kind", 'a"', 0, ROOT), ("Kind", "a\\", 0, ROOT), ("Kind", "ä", 0, ROOT), ("Kind", "a\n", 0, ROOT),
        ("Kind", "a" * 129, 0, ROOT),
        ("Kind", "t", -1, ROOT), ("Kind", "t", 2**53, ROOT), ("Kind", "t", 0, ROOT[:31]),
        ("Kind", "t", 0, ROOT + b"\x00"),
        ("Kind\n", "t", 0, ROOT),
    ],
)  # fmt: skip
def test_an_entry_takes_only_what_needs_no_escape(kind: str, tag: str, seq: int, root: bytes) -> None:
    """Nothing that could break out of the text, or that another reader would round, gets in."""
    with pytest.raises(Malformed):
        record.entry(kind, tag, seq, root)


def test_bounds_of_an_entry_are_taken() -> None:
    """The longest kind and tag, the largest number, and no agent at all."""
    longest = record.Entry("K" * 64, "t" * 128, 2**53 - 1, ROOT)
    for found in (longest, record.Entry("K", "", 0, ROOT)):
        assert record.parse_entry(record.entry(found.kind, found.agent_tag, found.seq, found.root)) == found


@pytest.mark.parametrize("size", [0, 192, 223, 225, 256])
def test_a_root_needs_all_commitments(size: int) -> None:
    """Seven times 32 bytes and nothing else."""
    with pytest.raises(Malformed):
        record.groups_root(bytes(size))


ENTRY = record.entry("Kind", "t", 1, ROOT)


@pytest.mark.parametrize(
    "data",
    [
        ENTRY + b" ", b" " + ENTRY, ENTRY.replace(b'"v":1', b'"v":2'), ENTRY.replace(b'"v":1', b'"v":true'),
        ENTRY.replace(b'"v":1', b'"v":1.0'), ENTRY.replace(b'"seq":1', b'"seq":1.0'),
        ENTRY.replace(b'"seq":1', b'"seq":true'),
        ENTRY.replace(b'"seq":1,', b""), ENTRY.replace(b'"v":1', b'"v":1,"x":1'),
        ENTRY.replace(b'"v":1', b'"v":1,"v":1'),
        ENTRY.replace(b"0a0b", b"0A0b"), ENTRY.replace(b"0a0b", b"0a0"), ENTRY.replace(b'"Kind"', b'"\\u004bind"'),
        ENTRY.replace(b'"Kind"', b"1"), ENTRY.replace(b'"t"', b"null"), json.dumps(json.loads(ENTRY)).encode(), b"[]",
        b"",
    ],
)  # fmt: skip
def test_an_entry_has_one_spelling(data: bytes) -> None:
    """Other members, versions, types and spellings are refused."""
    with pytest.raises(Malformed):
        record.parse_entry(data)


def test_the_root_is_the_rfc_6962_root_of_the_commitments() -> None:
    """The written-out tree of seven equals the general one."""
    committed = record.commit_groups(GROUPS, SALTS)
    leaves = [committed.commitments[at : at + 32] for at in range(0, 224, 32)]
    assert committed.root == merkle.root_of(leaves) == record.groups_root(committed.commitments)
    for name, (salt, content), leaf in zip(record.GROUPS, opened(committed).values(), leaves, strict=True):
        assert (
            record.commitment(name, salt, content) == leaf == merkle.leaf_hash(name.encode() + b"\x00" + salt + content)
        )


def test_an_absent_group_differs_from_an_empty_one() -> None:
    """No bytes, an empty object and null are three different things."""
    written: list[dict[str, object]] = [{}, {"remedy": {}}, {"remedy": None}]
    absent, empty, null = (record.commit_groups(groups, SALTS) for groups in written)
    assert [c.contents[6] for c in (absent, empty, null)] == [b"", b"{}", b"null"]
    assert len({absent.root, empty.root, null.root}) == 3


@pytest.mark.parametrize("groups", [{"whom": {}}, {**GROUPS, "posture": {}, "more": {}}, {"": 1}, {"Who": {}}])
def test_an_unknown_group_is_refused(groups: dict[str, object]) -> None:
    """A misspelt group would be left out of the root; it is refused instead."""
    with pytest.raises(Malformed):
        record.commit_groups(groups, SALTS)


@pytest.mark.parametrize("size", [0, 16, 111, 113])
def test_every_group_needs_its_salt(size: int) -> None:
    """Too few salts would leave a group to be guessed."""
    with pytest.raises(Malformed):
        record.commit_groups(GROUPS, bytes(size))


@given(st.sets(st.sampled_from(record.GROUPS)))
def test_any_groups_can_be_shown_without_the_others(shown: set[str]) -> None:
    """What is disclosed verifies, whatever stays hidden."""
    committed = record.commit_groups(GROUPS, SALTS)
    disclosed = {name: pair for name, pair in opened(committed).items() if name in shown}
    record.verify_groups(committed.root, committed.commitments, disclosed)


@pytest.mark.parametrize("name", record.GROUPS)
@pytest.mark.parametrize("part", ["salt", "content", "commitment", "swapped"])
def test_altering_any_group_is_caught(name: str, part: str) -> None:
    """One changed bit of a salt, a content or a commitment, or another group's place, does not verify."""
    committed = record.commit_groups(GROUPS, SALTS)
    disclosed, commitments = opened(committed), bytearray(committed.commitments)
    salt, content = disclosed[name]
    if part == "salt":
        disclosed[name] = (bytes([salt[0] ^ 1]) + salt[1:], content)
    elif part == "content":
        disclosed[name] = (salt, content + b" ")
    elif part == "swapped":
        disclosed[name] = disclosed[record.GROUPS[record.GROUPS.index(name) - 1]]
    else:
        commitments[record.GROUPS.index(name) * 32 + 31] ^= 1
    with pytest.raises(ProofInvalid):
        record.verify_groups(committed.root, bytes(commitments), disclosed)


@pytest.mark.parametrize(
    ("root", "cut", "disclosed"),
    [
        (bytes(32), 224, {}), (None, 223, {}), (None, 192, {}), (None, 224, {"other": (bytes(16), b"")}),
        (None, 224, {"who": (b"", b"")}),
    ],
)  # fmt: skip
def test_sizes_and_names_are_checked(root: bytes | None, cut: int, disclosed: dict[str, Any]) -> None:
    """Another root, fewer commitments, an unknown group or a short salt do not verify."""
    committed = record.commit_groups(GROUPS, SALTS)
    with pytest.raises(ProofInvalid):
        record.verify_groups(root or committed.root, committed.commitments[:cut], disclosed)


def test_content_cannot_move_into_the_salt() -> None:
    """Salts have one length, so the border between salt and content cannot be shifted."""
    committed = record.commit_groups(GROUPS, SALTS)
    salt, content = opened(committed)["who"]
    with pytest.raises(ProofInvalid):
        record.verify_groups(committed.root, committed.commitments, {"who": (salt + content[:1], content[1:])})
