"""The bundle: everything that proves a record offline, and every way of tampering with it told apart."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from broker.audit.log import Step
from broker.audit.trail import bundle, verify_bundle
from broker.audit.tree import AuditTree
from broker.db.engine import execute, reading, writing
from broker.errors import BrokerError, Malformed, NotFound, ProofInvalid
from broker.formats.note import NoteSigner, NoteVerifier
from tests.audit.logs import SEALS, event, open_log, signed_by
from tests.databases import open_database

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
PINNED = NoteVerifier.parse(SIGNER.vkey)

_MEMBERS = ("entry", "commitments", "groups", "proof")

Tamper = Callable[[dict[str, Any]], None]


def _filled(engine: Engine, folder: Path, *events: Any) -> AuditTree:
    log = open_log(engine, folder)
    for each in events:
        asyncio.run(log.record(Step((each,))))
    log.close()
    return AuditTree(engine, signed_by(SIGNER), SEALS)


def _bundle(engine: Engine, tree: AuditTree, index: int) -> bytes:
    with reading(engine) as session:
        return bundle(session, tree, index, WHOLE)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bundle of the fourth of seven records."""
    folder = tmp_path_factory.mktemp("good")
    engine = open_database(folder, migrated=True)
    told = event("a", Kind.CALL_REFUSED, decision={"outcome": "deny"}, what={"model": "e/largë"})
    tree = _filled(engine, folder, event("b"), event("a"), event("c"), told, event("a"), event("a"), event("a"))
    tree.integrate()
    made = _bundle(engine, tree, 3)
    engine.dispose()
    return made


def test_a_bundle_proves_its_record(good: bytes) -> None:
    """Under the pinned key alone: position, size, log, kind, the agent's number, and what happened."""
    proved = verify_bundle(good, PINNED)
    assert (proved.index, proved.size, proved.origin) == (3, 7, "broker.example/log")
    assert (proved.kind, proved.seq) == ("CallRefused", 2)
    assert proved.groups["what"] == {"model": "e/largë"}
    assert proved.groups["decision"] == {"outcome": "deny"}
    assert set(proved.groups) == {"what", "decision", "request"}


def test_every_record_of_a_log_can_be_proved(engine: Engine, tmp_path: Path) -> None:
    """At every index, under one checkpoint."""
    tree = _filled(engine, tmp_path, *(event(f"{number % 3}") for number in range(20)))
    tree.integrate()
    for index in range(20):
        assert verify_bundle(_bundle(engine, tree, index), PINNED).index == index


def test_a_large_record_can_be_proved(engine: Engine, tmp_path: Path) -> None:
    """What the log takes, the verifier reads: a group of more than 64 KiB too."""
    tree = _filled(engine, tmp_path, event("a", remedy={"differences": ["x" * 300] * 400}))
    tree.integrate()
    assert len(verify_bundle(_bundle(engine, tree, 0), PINNED).groups["remedy"]["differences"]) == 400


def test_what_is_not_under_a_checkpoint_has_no_bundle(engine: Engine, tmp_path: Path) -> None:
    """Before the first checkpoint, behind the newest one, and outside the log: not found, with a reason."""
    tree = _filled(engine, tmp_path, event())
    with pytest.raises(NotFound, match="no checkpoint yet"):
        _bundle(engine, tree, 0)
    tree.integrate()
    _filled(engine, tmp_path, event())
    with pytest.raises(NotFound, match="Record 1 is not under a checkpoint yet"):
        _bundle(engine, tree, 1)
    with pytest.raises(NotFound, match="no record 2"):
        _bundle(engine, tree, 2)


def test_groups_can_be_withheld(good: bytes) -> None:
    """Whoever passes a bundle on may leave groups out; the rest still proves itself."""
    members = orjson.loads(good)
    for name in ("who", "for_whom", "request"):
        del members["groups"][name]
    assert set(verify_bundle(orjson.dumps(members), PINNED).groups) == {"what", "decision"}


def _flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


def _entry(members: dict[str, Any]) -> None:
    members["entry"] = _flip(members["entry"])


def _other_entry(members: dict[str, Any]) -> None:
    entry = base64.b64decode(members["entry"])
    members["entry"] = base64.b64encode(entry.replace(b"CallRefused", b"CallAllowed")).decode()


def _commitments(members: dict[str, Any]) -> None:
    members["commitments"] = _flip(members["commitments"])


def _short_commitments(members: dict[str, Any]) -> None:
    members["commitments"] = base64.b64encode(base64.b64decode(members["commitments"])[:-32]).decode()


def _salt(members: dict[str, Any]) -> None:
    members["groups"]["what"]["salt"] = _flip(members["groups"]["what"]["salt"])


def _content(members: dict[str, Any]) -> None:
    members["groups"]["decision"]["content"] = '{"outcome":"permit"}'


def _emptied(members: dict[str, Any]) -> None:
    members["groups"]["decision"]["content"] = ""


def _swapped(members: dict[str, Any]) -> None:
    groups = members["groups"]
    groups["what"], groups["decision"] = groups["decision"], groups["what"]


def _unknown_group(members: dict[str, Any]) -> None:
    members["groups"]["more"] = members["groups"]["what"]


def _index(members: dict[str, Any]) -> None:
    members["proof"] = members["proof"].replace("index 3", "index 4")


def _hash(members: dict[str, Any]) -> None:
    lines = members["proof"].split("\n")
    lines[2] = _flip(lines[2])
    members["proof"] = "\n".join(lines)


def _missing_hash(members: dict[str, Any]) -> None:
    lines = members["proof"].split("\n")
    del lines[2]
    members["proof"] = "\n".join(lines)


def _size(members: dict[str, Any]) -> None:
    members["proof"] = members["proof"].replace("/log\n7\n", "/log\n8\n")


def _signature(members: dict[str, Any]) -> None:
    start, _, last = members["proof"].rstrip("\n").rpartition(" ")
    members["proof"] = f"{start} {_flip(last)}\n"


def _other_log(members: dict[str, Any]) -> None:
    signer = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
    head, _, note = members["proof"].partition("\n\n")
    members["proof"] = f"{head}\n\n{signer.sign(note.partition(chr(10) * 2)[0] + chr(10))}"


def _cut(member: str) -> Tamper:
    def cut(members: dict[str, Any]) -> None:
        del members[member]

    cut.__name__ = f"_without_{member}"
    return cut


def _number(member: str) -> Tamper:
    def number(members: dict[str, Any]) -> None:
        members[member] = 7

    number.__name__ = f"_number_as_{member}"
    return number


@pytest.mark.parametrize(
    ("tamper", "error", "text"),
    [
        (_entry, ProofInvalid, "inclusion proof does not lead to the root: the entry or the proof was altered"),
        (_other_entry, ProofInvalid, "the entry or the proof was altered"),
        (_commitments, ProofInvalid, "commitments do not make the entry's root"),
        (_short_commitments, ProofInvalid, "seven commitments"),
        (_salt, ProofInvalid, 'group "what" is not what the entry commits to'),
        (_content, ProofInvalid, 'group "decision" is not what the entry commits to'),
        (_emptied, ProofInvalid, 'group "decision" is not what the entry commits to'),
        (_swapped, ProofInvalid, "is not what the entry commits to"),
        (_unknown_group, ProofInvalid, "one of the groups who, for_whom"),
        (_index, ProofInvalid, "the entry or the proof was altered"),
        (_hash, ProofInvalid, "the entry or the proof was altered"),
        (_missing_hash, ProofInvalid, "does not lead to the root"),
        (_size, ProofInvalid, "signature"),
        (_signature, ProofInvalid, "signature"),
        (_other_log, ProofInvalid, "sign"),
        *(
            (_cut(member), Malformed, f"`{member}` is missing")
            for member in ("entry", "commitments", "groups", "proof")
        ),
        *((_number(member), Malformed, f"`{member}` is") for member in ("entry", "commitments", "groups", "proof")),
    ],
)
def test_tampering_is_told(good: bytes, tamper: Tamper, error: type[BrokerError], text: str) -> None:
    """Whatever member was changed, the error is of the right kind and its text says what does not fit."""
    members = orjson.loads(good)
    tamper(members)
    with pytest.raises(error) as failure:
        verify_bundle(orjson.dumps(members), PINNED)
    assert text in failure.value.detail


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"7", b'"bundle"', b"{", b'{"groups": {"what": 7}, "entry": ""}', b"\xff"]
)
def test_what_is_no_bundle_is_malformed(data: bytes) -> None:
    """Anything else than a bundle is refused as such."""
    with pytest.raises(Malformed):
        verify_bundle(data, PINNED)


def test_a_second_spelling_is_refused(good: bytes) -> None:
    """Base64 has one spelling: trailing bits that decode to the same bytes are tampering all the same."""
    members = orjson.loads(good)
    salt = members["groups"]["what"]["salt"]
    assert salt.endswith("==")
    other = salt[:-3] + chr(ord(salt[-3]) + 1) + "=="
    assert base64.b64decode(other) == base64.b64decode(salt)
    members["groups"]["what"]["salt"] = other
    with pytest.raises(Malformed, match="canonical base64"):
        verify_bundle(orjson.dumps(members), PINNED)


@given(st.data())
def test_any_altered_value_is_noticed(good: bytes, data: st.DataObject) -> None:
    """One character of any value of the bundle replaced: it verifies no more."""
    members = orjson.loads(good)
    holders = [(members, "entry"), (members, "commitments"), (members, "proof")]
    holders += [(group, name) for group in members["groups"].values() for name in ("salt", "content") if group[name]]
    holder, name = data.draw(st.sampled_from(holders))
    text = holder[name]
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != text[place]))
    holder[name] = text[:place] + other + text[place + 1 :]
    with pytest.raises((ProofInvalid, Malformed)):
        verify_bundle(orjson.dumps(members), PINNED)


def test_a_bundle_of_a_rewritten_log_does_not_verify(engine: Engine, tmp_path: Path) -> None:
    """Whoever rewrites a stored entry after its checkpoint gets no bundle that verifies."""
    tree = _filled(engine, tmp_path, event("a"), event("b"))
    tree.integrate()
    with writing(engine) as connection:
        entry = connection.exec_driver_sql("SELECT entry FROM records WHERE idx = 0").scalar_one()
        other = bytes(entry).replace(b"CallRefused", b"CallAllowed")
        execute(connection, "UPDATE records SET entry = ? WHERE idx = 0", (other,))
    with pytest.raises(ProofInvalid, match="the entry or the proof was altered"):
        verify_bundle(_bundle(engine, tree, 0), PINNED)
    assert verify_bundle(_bundle(engine, tree, 1), PINNED).index == 1
