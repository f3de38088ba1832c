"""Whatever is done to the stored log is caught by the check that should, which says what and where.

Four checks look at it: the start, the integration, the re-verification of everything stored (with each backup), and an
outsider with the public bytes, the records that the broker gives, and the checkpoint that was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from broker.audit import erasures
from broker.audit.continuity import Continuity, Gap
from broker.audit.events import Kind
from broker.audit.log import RecordRow, Step
from broker.db.engine import execute, reading
from broker.formats import checkpoint, record
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import leaf_hash
from broker.formats.record import GROUPS
from tests.audit.logs import event, open_log
from tests.audit.stored_log import INNER, OUTER, SIZE, Stored, erase
from tests.audit.test_tree import SIGNER


async def test_an_untouched_log_is_found_good(stored: Stored) -> None:
    """By each of the checks, so that their complaints below say something."""
    assert stored.start() == stored.recheck() == stored.outsider(records=True) == await stored.integration() == ""


def _flip(stored: Stored, table: str, column: str, where: str) -> None:
    """Alters one byte in the middle of a value: of bytes one bit, of text a character, a number grows."""
    with reading(stored.engine) as session:
        value = execute(session.connection(), f"SELECT {column} FROM {table} WHERE {where}").scalar_one()
    if isinstance(value, str):
        altered: Any = value[:-1] + ("1" if value[-1:] != "1" else "2")
    elif isinstance(value, int | float):
        altered = value + 1000
    else:
        data = bytearray(value)
        data[len(data) // 2] ^= 1
        altered = bytes(data)
    stored.change(f"UPDATE {table} SET {column} = ? WHERE {where}", altered)


_SEARCHED = ("at", "kind", "agent", "agent_tag", "seq", "outcome", "model", "request_id", "trait", "human")
_PROVED = ("entry", "leaf", "commitments", "groups")


def test_every_column_is_flipped_somewhere() -> None:
    """A column that comes later has to be caught, too; the index is dropped and moved below."""
    assert {*_SEARCHED, *_PROVED, "idx"} == set(RecordRow.model_fields)


@pytest.mark.parametrize("index", [0, INNER, 256, OUTER])
@pytest.mark.parametrize("column", [*_SEARCHED, *_PROVED])
async def test_a_byte_of_any_column_is_found_where_it_is(stored: Stored, column: str, index: int) -> None:
    """The re-verification names the record, whichever column it is; so does the auditor, of what auditors are given."""
    _flip(stored, "records", column, f"idx = {index}")
    assert stored.recheck().startswith(f"Record {index}: ")
    said = stored.outsider(records=True)
    if column == "leaf":
        assert f"entries {index // 256 * 256} to" in said or "from 512 on" in said
    elif column in _PROVED:
        assert said.startswith(f"Record {index}: ")
    else:
        assert said == ""  # is not shown to anybody as proved


@pytest.mark.parametrize("place", range(0, 40, 3))
async def test_any_byte_of_the_groups_is_found(stored: Stored, place: int) -> None:
    """Names, salts and contents, wherever they are cut: no error but one that names the record."""
    with reading(stored.engine) as session:
        value = bytearray(execute(session.connection(), f"SELECT groups FROM records WHERE idx = {INNER}").scalar_one())
    value[len(value) * place // 40] ^= 1
    stored.change(f"UPDATE records SET groups = ? WHERE idx = {INNER}", bytes(value))
    assert stored.recheck().startswith(f"Record {INNER}: ")
    assert stored.outsider(records=True).startswith(f"Record {INNER}: ")


async def test_an_altered_last_leaf_is_no_older_database(stored: Stored) -> None:
    """The start says which record was altered, and offers no way on; neither does it sign anything over it."""
    _flip(stored, "records", "leaf", f"idx = {OUTER}")
    for said in (stored.start(), await stored.integration()):
        assert f"the first {SIZE} entries are not those of the last checkpoint" in said
        assert f"record {OUTER} is not the one that was hashed" in said
        assert "nothing is signed over these" in said


async def test_an_altered_record_is_no_lost_one(stored: Stored) -> None:
    """Nor is it when the file beside the database is gone, or newer than all that is stored."""
    _flip(stored, "records", "leaf", f"idx = {OUTER}")
    file = stored.folder / "checkpoint"
    file.write_text(checkpoint.sign(Checkpoint(SIGNER.name, 10 * SIZE, bytes(32)), SIGNER))
    assert f"record {OUTER} is not the one that was hashed" in stored.start()
    file.unlink()
    assert f"record {OUTER} is not the one that was hashed" in stored.start()


async def test_an_altered_record_with_its_leaf_is_found(stored: Stored) -> None:
    """Entry and leaf fit each other again: only what is above them tells, and says between which records."""
    entry = b'{"agent_tag":"' + b"0" * 32 + b'","kind":"CallRefused","root":"' + b"0" * 64 + b'","seq":1,"v":1}'
    for index in (INNER, OUTER):
        stored.change(
            f"UPDATE records SET entry = ?, leaf = ? WHERE idx = {index}", entry, leaf_hash(entry)
        )  # fmt: skip
    assert f"Record {INNER}: " in stored.recheck()
    said = stored.outsider()
    assert "An entry from 512 on" in said
    assert "one of the records 0 to 255" in stored.start()


def _take(stored: Stored, index: int, name: str) -> None:
    """Takes a group out of a record, as an erasure does, and puts it on no record."""
    with reading(stored.engine) as session:
        statement = f"SELECT groups FROM records WHERE idx = {index}"
        groups = orjson.loads(bytes(execute(session.connection(), statement).scalar_one()))
    del groups[name]
    stored.change("UPDATE records SET groups = ? WHERE idx = ?", orjson.dumps(groups), index)


async def test_an_erased_group_is_no_tampering(stored: Stored) -> None:
    """What a record forgot, with its copies in columns, is absent; the rest of the record still proves itself."""
    await erase(stored, "who", "what")
    assert stored.recheck() == stored.outsider(records=True) == ""
    stored.change("UPDATE records SET outcome = 'permit' WHERE idx = ?", INNER)
    assert stored.recheck().startswith(f"Record {INNER}: ")


@pytest.mark.parametrize("name", GROUPS)
async def test_a_group_that_is_gone_without_an_erasure_is_found(stored: Stored, name: str) -> None:
    """With the record and the group: an erasure of other groups, or of other records, excuses nothing."""
    await erase(stored, *({"who", "what"} - {name}))
    _take(stored, INNER, name)
    for said in (stored.recheck(), stored.outsider(records=True)):
        assert said.startswith(f"Record {INNER}: content and salt of {name} are missing, and no record of an erasure")
    _take(stored, INNER - 3, name)
    for said in (stored.recheck(), stored.outsider(records=True)):
        assert said.startswith(f"Record {INNER - 3}: content and salt of {name} are missing")


async def test_the_record_of_an_erasure_lacks_nothing(stored: Stored) -> None:
    """Neither what it says, without which it excuses nothing, nor any other group, whatever a later one says."""
    await erase(stored, "who")
    log = open_log(stored.engine, stored.folder)
    remedy = {"groups": list(GROUPS), "records": [[SIZE, SIZE]]}
    await log.record(Step((event("operator:o", Kind.RECORDS_ERASED, remedy=remedy),)))
    log.close()
    stored.tree.integrate()
    assert stored.recheck() == stored.outsider(records=True) == ""
    for name in ("request", "remedy"):
        _take(stored, SIZE, name)
        for said in (stored.recheck(), stored.outsider(records=True)):
            assert said.startswith(f"Record {SIZE}")


async def test_a_number_that_is_left_out_is_seen_in_public_entries_alone(stored: Stored) -> None:
    """Though every group of its agent was erased: the pseudonym and the running number are all that is read."""
    await erase(stored, *GROUPS)
    with reading(stored.engine) as session:
        rows = execute(session.connection(), "SELECT idx, entry FROM records ORDER BY idx")
        entries = [(int(idx), record.parse_entry(bytes(entry))) for idx, entry in rows]
    _follow([entry for _, entry in entries])
    left_out = entries[INNER + 3][1]
    rest = [entry for index, entry in entries if index != INNER + 3]
    with pytest.raises(Gap, match=f"number {left_out.seq + 1} of the principal {left_out.agent_tag}, its number"):
        _follow(rest)


def _follow(entries: Sequence[record.Entry]) -> None:
    """Takes public entries under indices without a gap, so that the numbers alone tell of one."""
    continuity = Continuity(0)
    for index, entry in enumerate(entries):
        continuity.follow(index, entry.agent_tag, entry.seq)
    continuity.end(len(entries))


@pytest.mark.parametrize("kind", [Kind.RECORDS_ERASED, Kind.CALL_REFUSED])
async def test_a_record_that_a_column_makes_an_erasure_covers_nothing(stored: Stored, kind: Kind) -> None:
    """Its entry says of what kind it is: what a search goes by may be altered."""
    log = open_log(stored.engine, stored.folder)
    await log.record(Step((event("o", kind, remedy={"groups": ["what"], "records": [[INNER, INNER]]}),)))
    log.close()
    stored.change("INSERT INTO traits VALUES (99, ?, '', '', '', '', '[]')", Kind.RECORDS_ERASED)
    stored.change(f"UPDATE records SET trait = 99 WHERE idx = {SIZE}")
    with reading(stored.engine) as session:
        found = erasures.of_records(session.connection(), [INNER])
    assert found == ({INNER: {"what": SIZE}} if kind == Kind.RECORDS_ERASED else {})


@pytest.mark.parametrize("table", ["subtrees", "log_head"])
async def test_a_hash_above_the_records_is_found(stored: Stored, table: str) -> None:
    """A stored subtree, or the head itself: nothing is signed over it, and the auditor has it named."""
    if table == "subtrees":
        _flip(stored, table, "hash", "n = 1")
        assert "one of the records 256 to 511, or the hash over them" in stored.start()
        assert "from 512 on was altered, removed or moved, or a hash above" in stored.outsider()
        assert "entries are not those of the last checkpoint" in await stored.integration()
    else:
        stored.change("UPDATE log_head SET note = replace(note, ?, ?)", f"\n{SIZE}\n", f"\n{SIZE - 1}\n")
        assert "the note was altered" in stored.outsider()
        assert "the note was altered" in stored.recheck()


@pytest.mark.parametrize("index", [INNER, 512])
async def test_a_dropped_record_is_found(stored: Stored, index: int) -> None:
    """With its index, or the next one, which does not follow."""
    stored.change(f"DELETE FROM records WHERE idx = {index}")
    assert stored.recheck().startswith(f"Record {index + 1}: it does not follow")
    assert f"lacks hashes from {index // 256 * 256}" in stored.outsider()


async def test_a_dropped_record_whose_gap_was_closed_is_found(stored: Stored) -> None:
    """All later ones moved up: the order itself is under the checkpoint."""
    stored.change(f"DELETE FROM records WHERE idx = {INNER}")
    stored.change(f"UPDATE records SET idx = -idx WHERE idx > {INNER}")
    stored.change("UPDATE records SET idx = -idx - 1 WHERE idx < 0")
    assert f"holds {SIZE - 1} entries but its last checkpoint covers {SIZE}" in stored.start()
    assert stored.recheck() != ""
    assert stored.outsider() != ""


async def test_an_inserted_record_is_found(stored: Stored) -> None:
    """A copy of another one in the middle, all later ones moved down."""
    stored.change(f"UPDATE records SET idx = -idx - 1 WHERE idx >= {INNER}")
    stored.change("UPDATE records SET idx = -idx WHERE idx < 0")
    columns = ", ".join(name for name in RecordRow.model_fields if name not in ("idx", "seq"))
    stored.change(
        f"INSERT INTO records (idx, seq, {columns}) SELECT {INNER}, 9999, {columns} FROM records WHERE idx = 3"
    )
    assert stored.recheck().startswith(f"Record {INNER}: ")
    assert "entries 0 to 255" in stored.outsider() or "from 512 on" in stored.outsider()
    assert f"the first {SIZE} entries are not those" in stored.start()


async def test_two_records_in_each_others_place_are_found(stored: Stored) -> None:
    """Of one agent or of two: an index belongs to what was hashed there."""
    stored.change("UPDATE records SET idx = CASE idx WHEN 37 THEN -1 ELSE -2 END WHERE idx IN (37, 41)")
    stored.change("UPDATE records SET idx = CASE idx WHEN -1 THEN 41 ELSE 37 END WHERE idx < 0")
    assert stored.recheck().startswith("Record 37: ")
    assert "entries 0 to 255" in stored.outsider()


@pytest.mark.parametrize("left", [0, 300, SIZE - 1])
async def test_a_truncated_log_is_found(stored: Stored, left: int) -> None:
    """With its old head the start names both sizes; with an older head, the file beside the database does."""
    stored.change(f"DELETE FROM records WHERE idx >= {left}")
    assert f"holds {left} entries but its last checkpoint covers {SIZE}" in stored.start()
    assert stored.recheck() != ""
    assert stored.outsider() != ""
    stored.change("DELETE FROM log_head")
    stored.change("DELETE FROM subtrees")
    assert f"holds {left} records, and checkpoints of {SIZE} were published" in stored.start()


async def test_a_log_written_anew_and_signed_is_caught_by_the_kept_checkpoint(stored: Stored) -> None:
    """Whoever holds the log's key can make all of it fit itself again; not the checkpoint that somebody kept."""
    for table in ("records", "subtrees", "log_head"):
        stored.change(f"DELETE FROM {table}")
    (stored.folder / "checkpoint").unlink()
    await stored.append(SIZE + 5)
    stored.tree.integrate()
    assert stored.start() == stored.recheck() == ""
    said = stored.outsider(records=True)
    assert f"log of {SIZE + 5} entries does not continue the {SIZE} of the checkpoint that you kept" in said
    stored.kept = stored.tree.head()
    assert stored.outsider(records=True) == ""
