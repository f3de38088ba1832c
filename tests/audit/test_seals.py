"""What no checkpoint covers yet is what this broker wrote, or nothing is signed; what was done to it is told where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from broker.audit.events import Kind
from broker.audit.log import RecordRow, Step, agent_tag
from broker.audit.recheck import recheck
from broker.audit.seals import SealRow, Seals
from broker.audit.tree import AuditTree
from broker.db.engine import execute, insert_rows, reading, writing
from broker.entropy import system_entropy
from broker.errors import ProofInvalid, Unavailable
from broker.formats import checkpoint, merkle, record
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import leaf_hash
from tests.audit.logs import SEALS, TAG_KEY, check_rows, event, open_log, put_records, rows, signed_by
from tests.audit.stored_log import Stored
from tests.audit.test_tree import SIGNER, VERIFIER, MeetingSigner

_COVERED = 20
_BATCHES = (3, 1, 3)
_END = _COVERED + sum(_BATCHES)
_SEAL_COLUMNS = tuple(SealRow.model_fields)
_COLUMNS = tuple(RecordRow.model_fields)


@pytest.fixture
async def stored(engine: Engine, tmp_path: Path) -> Stored:
    """Records 0 to 19 under a checkpoint; 20 to 22, 23, and 24 to 26 in batches that wait for one."""
    made = Stored(engine, tmp_path, signed_by(SIGNER))
    await made.append(_COVERED)
    made.kept = made.tree.integrate() or ""
    for number in _BATCHES:
        await made.append(number)
    return made


def _integrated(stored: Stored) -> str:
    """What the integration says; if that is anything, nothing was signed, stored or kept."""
    try:
        stored.tree.integrate()
    except ProofInvalid as error:
        assert stored.tree.head() == (stored.folder / "checkpoint").read_text() == stored.kept
        return error.detail
    return ""


def _seals(engine: Engine) -> list[tuple[int, int]]:
    with reading(engine) as session:
        found = execute(session.connection(), "SELECT first, count FROM seals ORDER BY first")
        return [(int(first), int(count)) for first, count in found]


async def test_a_batch_has_a_seal_until_a_checkpoint_covers_it(stored: Stored) -> None:
    """One row for each, which integration takes away; so the table is never larger than what waits."""
    assert _seals(stored.engine) == [(20, 3), (23, 1), (24, 3)]
    assert _integrated(stored) == ""
    assert _seals(stored.engine) == []
    head = checkpoint.open_signed(stored.tree.head(), VERIFIER)
    assert head == Checkpoint(head.origin, _END, merkle.root_of([row["leaf"] for row in rows(stored.engine)]))


def _forged(stored: Stored, **changed: Any) -> dict[str, Any]:
    """A record as the broker writes it, right in everything: one of an erasure, which excuses what was taken out."""
    groups = event("agent-1", Kind.RECORDS_ERASED, remedy={"groups": ["what"], "records": [[0, 9]]}).groups()
    salts = system_entropy(record.SALTS_BYTES)
    committed = record.commit_groups(groups, salts)
    tag = agent_tag(TAG_KEY, "agent-1")
    last = max((row for row in rows(stored.engine) if row["agent_tag"] == tag), key=lambda row: int(row["seq"]))
    entry = record.entry(Kind.RECORDS_ERASED, tag, last["seq"] + 1, committed.root)
    shown = {
        name: (salts[16 * place : 16 * place + 16].hex(), content.decode())
        for place, (name, content) in enumerate(zip(record.GROUPS, committed.contents, strict=True))
    }
    return {
        **last,
        "idx": _END,
        "kind": str(Kind.RECORDS_ERASED),
        "agent": "agent-1",
        "seq": last["seq"] + 1,
        "entry": entry,
        "leaf": leaf_hash(entry),
        "commitments": committed.commitments,
        "groups": orjson.dumps(shown),
        "trait": 0,
        **changed,
    }


def _insert(stored: Stored, table: str, *given: dict[str, Any]) -> None:
    columns = tuple(given[0])
    with writing(stored.engine) as connection:
        insert_rows(connection, table, columns, [tuple(row[name] for name in columns) for row in given])


async def test_a_record_that_somebody_put_at_the_end_is_not_signed(stored: Stored) -> None:
    """Though it is right in everything else: without a seal it is not this broker's. Once it is gone, all goes on."""
    _insert(stored, "records", _forged(stored))
    check_rows(stored.engine)
    said = _integrated(stored)
    assert said.startswith(f"Record {_END} was not written by this broker, or altered or removed before it was signed")
    assert (
        "(no seal is over them). Nothing is signed from there on. Somebody else writes to the broker's database" in said
    )
    stored.change("DELETE FROM records WHERE idx = ?", _END)
    assert _integrated(stored) == ""


async def test_a_re_verification_tells_of_what_has_no_seal(stored: Stored) -> None:
    """Every record of the database is looked at, also those that wait, so that no backup of them counts as good."""
    assert recheck(stored.engine, VERIFIER, TAG_KEY).records == _END
    stored.change("INSERT INTO traits VALUES (99, ?, '', '', '', '', '[]')", Kind.RECORDS_ERASED)
    _insert(stored, "records", _forged(stored, trait=99))
    with pytest.raises(ProofInvalid, match=f"Record {_END} was not written by this broker"):
        recheck(stored.engine, VERIFIER, TAG_KEY)


@pytest.mark.parametrize("key", [TAG_KEY, b"x" * 32, b""])
async def test_a_seal_needs_the_key(stored: Stored, key: bytes) -> None:
    """Neither another key nor the secret itself, which keys the pseudonyms, makes one."""
    forged = _forged(stored)
    made = Seals(b"x" * 32)
    made._key = key
    _insert(stored, "records", forged)
    with writing(stored.engine) as connection:
        made.seal(connection, _END, [forged["leaf"]])
    assert _integrated(stored).startswith(f"Record {_END} was not written by this broker")
    assert "(the seal over them is another)" in _integrated(stored)


def _seal(engine: Engine, first: int) -> dict[str, Any]:
    with reading(engine) as session:
        found = execute(session.connection(), "SELECT first, count, mac FROM seals WHERE first = ?", (first,)).one()
        return dict(zip(_SEAL_COLUMNS, found, strict=True))


async def test_a_seal_counts_for_its_own_place_and_records(stored: Stored) -> None:
    """One that was seen before, of records that are covered by now or of others that wait, makes nothing else good."""
    old = _seal(stored.engine, 23)
    assert _integrated(stored) == ""
    stored.kept = stored.tree.head()
    await stored.append(1)
    _insert(stored, "records", _forged(stored, idx=_END + 1))
    for seal in (old, _seal(stored.engine, _END)):
        _insert(stored, "seals", {**seal, "first": _END + 1})
        assert _integrated(stored).startswith(f"Record {_END + 1} was not written by this broker")
        stored.change("DELETE FROM seals WHERE first = ?", _END + 1)


async def test_records_brought_back_to_another_place_are_not_signed(stored: Stored) -> None:
    """A whole batch with its own seal, repeated at the end under numbers of its own, is no new one."""
    again = [{**row, "idx": row["idx"] + 3, "seq": row["seq"] + 99} for row in rows(stored.engine) if row["idx"] > 23]
    _insert(stored, "records", *again)
    _insert(stored, "seals", {**_seal(stored.engine, 24), "first": _END})
    assert _integrated(stored).startswith(f"Records {_END} to {_END + 2} were not written by this broker")


def _swap(one: int, other: int) -> list[str]:
    return [
        f"UPDATE records SET idx = CASE idx WHEN {one} THEN -1 ELSE -2 END WHERE idx IN ({one}, {other})",
        f"UPDATE records SET idx = CASE idx WHEN -1 THEN {other} ELSE {one} END WHERE idx < 0",
    ]


def _drop(*indices: int) -> list[str]:
    return [f"DELETE FROM records WHERE idx = {index}" for index in indices]


ATTACKS: list[tuple[str, Sequence[str], str]] = [
    ("two of one batch reordered", _swap(20, 21), "Records 20 to 22 were"),
    ("two of two batches reordered", _swap(22, 23), "Records 20 to 22 were"),
    ("the first dropped", _drop(20), "Record 20 was"),
    ("an inner one dropped", _drop(21), "Record 21 was"),
    ("one that is a batch dropped", _drop(23), "Record 23 was"),
    ("two dropped", _drop(24, 25), "Records 24 to 25 were"),
    ("the last dropped", _drop(26), "Record 26 was"),
    ("the last batch dropped", _drop(24, 25, 26), "Records 24 to 26 were"),
    ("a batch dropped with its seal", [*_drop(23), "DELETE FROM seals WHERE first = 23"], "Record 23 was"),
    ("the first seal dropped", ["DELETE FROM seals WHERE first = 20"], "Records 20 to 22 were"),
    ("an inner seal dropped", ["DELETE FROM seals WHERE first = 23"], "Record 23 was"),
    ("the last seal dropped", ["DELETE FROM seals WHERE first = 24"], "Records 24 to 26 were"),
    ("all seals dropped", ["DELETE FROM seals"], "Records 20 to 26 were"),
    ("the last seal moved", ["UPDATE seals SET first = 25 WHERE first = 24"], "Record 24 was"),
    ("a seal moved before", ["UPDATE seals SET first = 22 WHERE first = 23"], "Record 22 was"),
    ("a seal made longer", ["UPDATE seals SET count = 2 WHERE first = 23"], "Record 24 was"),
    ("the last seal made longer", ["UPDATE seals SET count = 5 WHERE first = 24"], "Records 27 to 28 were"),
    ("the last seal as long as can be", [f"UPDATE seals SET count = {2**63 - 1} WHERE first = 24"],
     f"Records 27 to {2**63 + 22} were"),
    ("a seal made shorter", ["UPDATE seals SET count = 2 WHERE first = 20"], "Record 22 was"),
    ("a seal of nothing", ["UPDATE seals SET count = 0 WHERE first = 23"], "Record 23 was"),
    ("a seal of less than nothing", ["UPDATE seals SET count = -3 WHERE first = 23"], "Record 23 was"),
    ("seals put together", ["DELETE FROM seals WHERE first = 23", "UPDATE seals SET count = 4 WHERE first = 20"],
     "Records 20 to 23 were"),
]  # fmt: skip


@pytest.mark.parametrize(("done", "said"), [attack[1:] for attack in ATTACKS], ids=[attack[0] for attack in ATTACKS])
async def test_what_is_dropped_or_moved_is_told_where(stored: Stored, done: Sequence[str], said: str) -> None:
    """Records, their order, and the seals themselves."""
    for statement in done:
        stored.change(statement)
    found = _integrated(stored)
    assert found.startswith(f"{said} not written by this broker, or altered or removed before ")


@pytest.mark.parametrize("table", ["entry", "leaf", "mac"])
@pytest.mark.parametrize("index", range(_COVERED, _END))
async def test_any_bit_that_is_flipped_is_told_where(stored: Stored, table: str, index: int) -> None:
    """Of an entry or its hash: the record; of a seal: those that it is over."""
    first, count = next(seal for seal in reversed(_seals(stored.engine)) if seal[0] <= index)
    at = "seals WHERE first" if table == "mac" else "records WHERE idx"
    key = first if table == "mac" else index
    with reading(stored.engine) as session:
        value = bytearray(execute(session.connection(), f"SELECT {table} FROM {at} = ?", (key,)).scalar_one())
    value[index % len(value)] ^= 1 << index % 8
    stored.change(f"UPDATE {at.split(maxsplit=1)[0]} SET {table} = ? {at.split(' ', 1)[1]} = ?", bytes(value), key)
    last = first + count - 1
    where = f"Record {index}" if table != "mac" else f"Records {first} to {last}" if count > 1 else f"Record {first}"
    assert _integrated(stored).startswith(f"{where} w")


@pytest.mark.parametrize("index", [_COVERED, 23, _END - 1])
async def test_an_entry_altered_with_its_hash_is_told(stored: Stored, index: int) -> None:
    """They fit each other, and not the seal; the text names the batch."""
    forged = _forged(stored)
    stored.change("UPDATE records SET entry = ?, leaf = ? WHERE idx = ?", forged["entry"], forged["leaf"], index)
    first, count = next(seal for seal in reversed(_seals(stored.engine)) if seal[0] <= index)
    where = f"Records {first} to {first + count - 1} were" if count > 1 else f"Record {first} was"
    assert _integrated(stored).startswith(where)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE seals SET mac = 'text' WHERE first = 23",
        "UPDATE seals SET count = 'text' WHERE first = 23",
        "UPDATE records SET entry = 'text' WHERE idx = 23",
        "UPDATE records SET leaf = 7 WHERE idx = 23",
    ],
)
async def test_values_of_other_types_are_told_where(stored: Stored, statement: str) -> None:
    """The embedded database takes anything in any column."""
    stored.change(statement)
    assert _integrated(stored).startswith("Record 23 was not written by this broker")


async def test_a_long_backlog_ends_each_chunk_at_a_seal(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is under a checkpoint is whole batches, also such as are longer than a chunk; what is wrong comes after."""
    monkeypatch.setattr("broker.audit.tree._CHUNK", 10)
    stored = Stored(engine, tmp_path, signed_by(SIGNER))
    for number in (4, 4, 4, 25, 9, 1, 1):
        await stored.append(number)
    stored.change("UPDATE seals SET mac = ? WHERE first = 47", bytes(32))
    with pytest.raises(ProofInvalid, match="Record 47 was"):
        stored.tree.integrate()
    assert checkpoint.open_signed(stored.tree.head(), VERIFIER).size == 47
    assert _seals(engine) == [(47, 1)]


async def test_the_last_of_a_chunk_is_missed_by_name(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others follow it, which are of the next chunk."""
    monkeypatch.setattr("broker.audit.tree._CHUNK", 3)
    stored.change("DELETE FROM records WHERE idx = 22")
    assert _integrated(stored).startswith("Record 22 was not written by this broker")
    assert "(missing)" in _integrated(stored)


async def test_a_head_that_nobody_signed_covers_nothing(stored: Stored) -> None:
    """Altered records under a root that fits them: only the log's key says what is covered already."""
    forged = _forged(stored, idx=23)
    stored.change("UPDATE records SET entry = ?, leaf = ? WHERE idx = 23", forged["entry"], forged["leaf"])
    root = merkle.root_of([row["leaf"] for row in rows(stored.engine)][:24])
    note = checkpoint.sign(Checkpoint(SIGNER.name, 24, root), SIGNER)
    tampered = note[:-8] + ("A" if note[-8] != "A" else "B") + note[-7:]
    stored.change("UPDATE log_head SET size = 24, note = ?", tampered)
    with pytest.raises(ProofInvalid, match=r"last checkpoint is not signed by the log's key: .*Nothing is signed"):
        stored.tree.integrate()
    assert stored.tree.head() == tampered


async def test_without_a_head_nothing_is_signed_anew(stored: Stored) -> None:
    """The seals of what was covered are gone: a history that somebody wrote again from its beginning has none."""
    stored.change("DELETE FROM log_head")
    with pytest.raises(ProofInvalid, match=rf"Records 0 to {_COVERED - 1} were not written by this broker"):
        stored.tree.integrate()


async def test_no_stored_hash_counts_for_new_records(engine: Engine) -> None:
    """One over leaves of somebody's own, there while the tree is built and gone when it is stored, is not signed."""
    entries = [f"{index}".encode() for index in range(300)]
    leaves = [leaf_hash(entry) for entry in entries]
    empty = {"at": 0.0, "trait": 0, "commitments": b"", "groups": b""}
    given = [
        {**empty, "idx": index, "seq": index, "entry": entry, "leaf": leaf}
        for index, (entry, leaf) in enumerate(zip(entries, leaves, strict=True))
    ]
    with writing(engine) as connection:
        put_records(connection, _COLUMNS, [tuple(row.get(name, "") for name in _COLUMNS) for row in given])
        insert_rows(connection, "subtrees", ("level", "n", "hash"), [(1, 0, b"\xab" * 32)])

    def meanwhile() -> None:
        with writing(engine) as connection:
            execute(connection, "DELETE FROM subtrees")

    note = AuditTree(engine, signed_by(MeetingSigner(meanwhile)), SEALS).integrate()
    assert note is not None
    assert checkpoint.open_signed(note, VERIFIER).root == merkle.root_of(leaves)


Attack = Callable[[Stored], None]


def _put_behind(stored: Stored) -> None:
    _insert(stored, "records", _forged(stored))


def _put_further(stored: Stored) -> None:
    _insert(stored, "records", _forged(stored, idx=_END + 1))


def _take_off(stored: Stored) -> None:
    stored.change("DELETE FROM records WHERE idx >= 24")
    stored.change("DELETE FROM seals WHERE first >= 24")


@pytest.mark.parametrize(
    ("attack", "stopped", "place"),
    [
        (_put_behind, 3, f"Record {_END} was"),
        (_put_further, 2, f"Record {_END + 1} was"),
        (_take_off, 0, "Records 24 to 26 were"),
    ],
)
async def test_a_broker_that_runs_does_not_go_on_beside_another_writer(
    stored: Stored, attack: Attack, stopped: int, place: str
) -> None:
    """Whatever it still appends, nothing is signed from the place on; where its own rows collide, it stops itself."""
    log = open_log(stored.engine, stored.folder)
    attack(stored)
    failed = 0
    for _ in range(3):
        try:
            await log.record(Step((event("agent-2"),)))
        except Unavailable:
            failed += 1
    log.close()
    assert failed == stopped
    assert _integrated(stored).startswith(place)


async def test_what_an_older_version_left_is_sealed_once(stored: Stored) -> None:
    """In its order, whatever seals there were; afterwards it integrates like everything else."""
    stored.change("DELETE FROM seals WHERE first > 20")
    stored.tree.adopt()
    assert _seals(stored.engine) == [(_COVERED, _END - _COVERED)]
    assert _integrated(stored) == ""
