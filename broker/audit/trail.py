"""Reading the log: search, one record with its exact bytes, and the bundle that proves it offline."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlmodel import Session, col, select

from broker.audit import erasures
from broker.audit.disclosure import Disclosure
from broker.audit.erasures import GroupMissing
from broker.audit.events import CALL_ENDS, Kind
from broker.audit.log import RecordRow
from broker.audit.ranges import stated_groups
from broker.audit.search import MAX_PAGE, Query, indices
from broker.audit.stored_record import at_ms, readable_groups
from broker.audit.tree import AuditTree
from broker.db.engine import execute
from broker.errors import Conflict, Malformed, NotFound
from broker.formats import canonical_json, checkpoint, note, record, succession, tlog_proof
from broker.formats import receipt as receipts
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteVerifier
from broker.formats.receipt import Receipt

__all__ = [
    "MAX_PAGE",
    "Query",
    "VerifiedRecord",
    "bundle",
    "open_calls",
    "page",
    "read",
    "search",
    "verify_bundle",
]

_MAX_BUNDLE_BYTES = 4 * 1024 * 1024


def search(session: Session, query: Query, disclosure: Disclosure) -> list[dict[str, Any]]:
    """A page of records as `read` gives them; the query is one of which it withholds nothing."""
    rows = page(session, query)
    erased = erasures.of_records(session.connection(), (row.idx for row in rows if absent(row.groups)))
    return [_shown(row, disclosure, erased.get(row.idx, {})) for row in rows]


def page(session: Session, query: Query) -> list[RecordRow]:
    """A page of records as they are stored, in the order asked for."""
    found = indices(session, query)
    rows = {row.idx: row for row in session.exec(select(RecordRow).where(col(RecordRow.idx).in_(found)))}
    return [rows[index] for index in found]


def read(session: Session, index: int, disclosure: Disclosure) -> dict[str, Any]:
    """The record at `index`: index, kind, agent, seq, the groups by name, the entry's exact bytes (base64).

    `withheld` names the groups that are not shown to this reader. Of the others, `erased` says of each that was erased
    which record says so, and `missing` names those that are gone or unreadable, and were not: somebody did that in the
    database.

    Raises:
        NotFound: there is no such record.
    """
    row = session.get(RecordRow, index)
    if row is None:
        raise NotFound(f"There is no record {index}.")
    return _shown(row, disclosure, erased_of(session, row))


def absent(groups: bytes) -> list[str]:
    """The names of the groups that a stored record has lost, or that nobody can read any more."""
    stored = readable_groups(groups)
    return [name for name in record.GROUPS if name not in stored]


def erased_of(session: Session, row: RecordRow) -> dict[str, int]:
    """The groups of a record that were erased, each with the index of the record that says so."""
    found = erasures.of_records(session.connection(), [row.idx] if absent(row.groups) else [])
    return found.get(row.idx, {})


def check_whole(row: RecordRow, erased: Collection[str]) -> None:
    """Makes sure that each group of a record is there, or was erased.

    Raises:
        Conflict: one is neither.
    """
    if missing := _missing(row, erased):
        raise Conflict(erasures.lacking(missing, f"Record {row.idx}: ").detail, reason=GroupMissing.reason)


def _missing(row: RecordRow, erased: Collection[str]) -> list[str]:
    """The record of an erasure lacks nothing, whatever another one says."""
    return [name for name in absent(row.groups) if name not in erased or row.kind == Kind.RECORDS_ERASED]


def open_calls(session: Session) -> list[tuple[int, str, str, str]]:
    """Calls admitted in the last run of the broker that no record closes, as (index, agent, request id, model).

    Called at start, before anything else is recorded. A call whose id was erased is a day old at least, and left out:
    its end may be there under the id, or be erased too.
    """
    started = indices(session, Query(kind=Kind.BROKER_STARTED, limit=1))
    kinds = sorted({Kind.CALL_ADMITTED, *CALL_ENDS})
    marks = ",".join("?" * len(kinds))
    rows = execute(
        session.connection(),
        f"SELECT idx, kind, agent, request_id, model FROM records WHERE idx >= ? AND request_id <> '' "  # noqa: S608  question marks only; values are bound
        f"AND kind IN ({marks}) ORDER BY idx",
        (started[0] if started else 0, *kinds),
    )
    found: dict[str, tuple[int, str, str, str]] = {}
    for idx, kind, agent, request_id, model in rows:
        if kind == Kind.CALL_ADMITTED:
            found[request_id] = (idx, agent, request_id, model)
        else:
            found.pop(request_id, None)
    return list(found.values())


def bundle(session: Session, tree: AuditTree, index: int, disclosure: Disclosure) -> bytes:
    """What proves record `index` without us, with the groups that may be shown: a JSON file for `verify_bundle`.

    Shape: `{"entry", "commitments", "groups": {name: {"salt", "content"}}, "proof", "successions"}`: bytes in base64,
    the proof a C2SP tlog-proof under the newest checkpoint, and the statements by which the log's keys followed each
    other.

    Raises:
        NotFound: no such record, or not yet under a checkpoint.
        Conflict: a group is gone or unreadable, and was not erased: nothing is handed out that hides it.
    """
    row = session.get(RecordRow, index)
    if row is None:
        raise NotFound(f"There is no record {index}.")
    check_whole(row, erased_of(session, row))
    proof = receipt_proof(tree, index)
    return orjson.dumps(
        {
            "entry": note.encode_base64(row.entry),
            "commitments": note.encode_base64(row.commitments),
            "groups": stated_groups(disclosure.of(row.groups)),
            "proof": proof,
            "successions": tree.successions(),
        },
        option=orjson.OPT_INDENT_2,
    )


def receipt(session: Session, index: int) -> Receipt:
    """What the holder of a token is shown of its record: for nobody else.

    Raises:
        NotFound: there is no such record, or what it says was erased.
    """
    row = session.get(RecordRow, index)
    groups = readable_groups(row.groups) if row is not None else {}
    if row is None or receipts.GROUP not in groups:
        raise NotFound(f"There is no record {index} that can be shown.")
    salt, content = groups[receipts.GROUP]
    return Receipt(index, bytes(row.entry), bytes(row.commitments), bytes.fromhex(salt), content)


def receipt_proof(tree: AuditTree, index: int) -> str:
    """The proof that the log holds record `index` (C2SP tlog-proof), under the newest checkpoint.

    Raises:
        NotFound: no such record, or not yet under a checkpoint.
    """
    head = tree.head()
    size = checkpoint.parse_unverified(head).size
    if index >= size:
        raise NotFound(f"Record {index} is not under a checkpoint yet. Try again in a second.")
    return tlog_proof.write(index, tree.inclusion(index, size), head)


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """What a bundle proves: built by `verify_bundle` alone."""

    index: int
    size: int
    origin: str
    kind: str
    seq: int
    groups: dict[str, Any]


def verify_bundle(data: bytes, pinned: NoteVerifier, successions: Sequence[str] = ()) -> VerifiedRecord:
    """Checks a bundle offline under a pinned key.

    1. The checkpoint is signed by the pinned key, or by one that it leads to (`broker.formats.succession`).
    2. The entry's leaf is in the tree of that checkpoint at the index that the proof names.
    3. The entry's root commits to the groups' commitments, and each disclosed group opens its commitment.

    Args:
        data: a file that `bundle` wrote.
        pinned: a key of the log, from somewhere else than the bundle.
        successions: statements from elsewhere, beside those in the file.

    Raises:
        ProofInvalid, InvalidSignature, Malformed: the text says what does not fit.
    """
    members = canonical_json.parse(data, max_bytes=_MAX_BUNDLE_BYTES)
    entry = note.decode_base64(_text(members, "entry"))
    shown = members.get("groups") if isinstance(members, dict) else None
    if not isinstance(shown, dict):
        raise _no_bundle("groups")
    disclosed = {
        name: (note.decode_base64(_text(group, "salt")), _text(group, "content").encode())
        for name, group in shown.items()
    }
    proof = _text(members, "proof")
    log_key = succession.key_for(
        tlog_proof.checkpoint_of(proof), pinned, (*succession.statements_in(members), *successions)
    )
    proved = tlog_proof.verify(proof, leaf_hash(entry), log_key)
    fields = record.parse_entry(entry)
    record.verify_groups(fields.root, note.decode_base64(_text(members, "commitments")), disclosed)
    groups = {name: canonical_json.parse(text, max_bytes=len(text)) for name, (_, text) in disclosed.items() if text}
    return VerifiedRecord(proved.index, proved.size, proved.origin, fields.kind, fields.seq, groups)


def _shown(row: RecordRow, disclosure: Disclosure, erased: Mapping[str, int]) -> dict[str, Any]:
    stored = disclosure.of(row.groups)
    return {
        "index": row.idx,
        "kind": row.kind,
        "agent": disclosure.column("agent", row.agent),
        "seq": row.seq,
        "at_ms": at_ms(row.at),
        "groups": {name: orjson.loads(content) for name, (_, content) in stored.items() if content},
        "withheld": disclosure.withheld,
        "erased": {name: index for name, index in erased.items() if name in disclosure.groups and name not in stored},
        "missing": [name for name in _missing(row, erased) if name in disclosure.groups],
        "entry": note.encode_base64(row.entry),
    }


def _text(members: object, name: str) -> str:
    value = members.get(name) if isinstance(members, dict) else None
    if not isinstance(value, str):
        raise _no_bundle(name)
    return value


def _no_bundle(member: str) -> Malformed:
    return Malformed(f"The file is no bundle of the broker: `{member}` is missing or of another type.")
