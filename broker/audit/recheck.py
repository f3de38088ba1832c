"""The whole log re-verified from its stored records, up to the checkpoint that the database holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Engine, inspect

from broker.audit import erasures, traits
from broker.audit.disclosure import COPIED_FROM
from broker.audit.erasure import DAY_S
from broker.audit.erasures import Erasures, ErasureUndone, GroupMissing
from broker.audit.log import agent_tag
from broker.audit.seals import Seals
from broker.audit.tree import stored_head
from broker.db.engine import execute, reading
from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint, record
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import Frontier, leaf_hash
from broker.formats.note import NoteVerifier

_PAGE = 1000
_SAID = {"outcome": "outcome", "model": "model", "request_id": "id"}
"""Columns that are copies, and the member of their group that each is a copy of; the agent's is held to its tag."""


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What was found to hold. Only `recheck` builds one.

    Args:
        note: the signed checkpoint.
        head: the same, verified.
        records: how many entries are stored; those beyond the checkpoint had not been covered yet.
    """

    note: str
    head: Checkpoint
    records: int


class _PassedBy(ProofInvalid):
    """A record that is whole, and that no search by what many share comes by."""


class _Stored(NamedTuple):
    """A record as it is stored."""

    idx: int
    trait: int
    human: str
    agent_tag: str
    seq: int
    entry: bytes
    leaf: bytes
    commitments: bytes
    groups: bytes
    agent: str
    kind: str
    at: object
    request_id: str
    outcome: str
    model: str


def recheck(engine: Engine, log_key: NoteVerifier, tag_key: bytes) -> Rechecked:
    """Reads every record once, a page at a time; keeps a byte a record, and a number for each principal.

    1. The checkpoint is signed by the log's key.
    2. Indices are dense, each agent's numbers too, each leaf is its entry's, each group opens its commitment.
    3. A group that is not there was erased, as a record of the erasure says (`broker.audit.erasures`), and one that was
       erased is not there.
    4. What a search goes by is what the record says, and nothing where the group is gone that says it.
    5. The leaves under the checkpoint hash to its root (RFC 6962 §2.1).
    6. What waits for a checkpoint is sealed as the broker wrote it (`broker.audit.seals`).

    Raises:
        ProofInvalid, Malformed: the text names the record, or says that the checkpoint does not fit.
    """
    frontier, last, root, erased = Frontier(), dict[str, int](), b"", Erasures()
    later: ProofInvalid | None = None  # said if all records are the broker's own: another's would be to blame for it
    with reading(engine) as session:
        connection = session.connection()
        note = stored_head(connection)
        if note is None:
            raise ProofInvalid("The database holds no checkpoint: its log had not begun.")
        head = checkpoint.open_signed(note, log_key)
        combinations = traits.stored(connection)
        for each in erasures.stored(connection, by_trait=combinations is not None):
            erased.add(each.idx, each.remedy())  # that it is the one in the tree is seen below, when its turn comes
        for row in _rows(connection, sorted_in=combinations is not None):
            try:
                said = _opened(row, row.idx == frontier.size, last.get(row.agent_tag, 0))
                erased.check(row.idx, row.kind, said)
                _check_sought(row, said, tag_key, combinations)
                erased.check_gone(row.idx, row.kind, said)
            except GroupMissing:
                raise
            except (ErasureUndone, _PassedBy) as error:
                later = later or ProofInvalid(f"Record {row.idx}: {error.detail}")
            except (ProofInvalid, Malformed) as error:
                raise ProofInvalid(f"Record {row.idx}: {error.detail}") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise ProofInvalid(f"Record {row.idx}: its groups cannot be read: they were altered.") from error
            last[row.agent_tag] = row.seq
            frontier.append(bytes(row.leaf))
            if frontier.size == head.size:
                root = frontier.root()
        if root == head.root and inspect(connection).has_table("seals"):  # else of a broker that knew none
            Seals(tag_key).check(connection, head.size, frontier.size)
    if root != head.root:
        raise ProofInvalid(f"The records do not hash to the checkpoint of {head.size}: they were replaced or removed.")
    if later is not None:
        raise later
    return Rechecked(note, head, frontier.size)


def _rows(connection: Connection, *, sorted_in: bool) -> Iterator[_Stored]:
    """Every record in order; those of a version that did not sort them in say nothing of it."""
    columns = ",".join(_Stored._fields) if sorted_in else ",".join(["idx", "0", "''", *_Stored._fields[3:]])
    statement = f"SELECT {columns} FROM records WHERE idx > ? ORDER BY idx LIMIT ?"  # noqa: S608  column names are constants here
    after: int | None = -(2**63)
    while after is not None:
        page = [_Stored(*row) for row in execute(connection, statement, (after, _PAGE))]
        yield from page
        after = page[-1].idx if len(page) == _PAGE else None


def _opened(row: _Stored, dense: bool, before: int) -> dict[str, Any]:
    """What a record's groups say, once its leaf, its place and its commitments fit; `before` is its agent's number."""
    if bytes(row.leaf) != leaf_hash(bytes(row.entry)):
        raise ProofInvalid("it is not the one that was hashed into the tree: it was altered.")
    fields = record.parse_entry(bytes(row.entry))
    if not dense or (fields.agent_tag, fields.seq, row.seq) != (row.agent_tag, row.seq, before + 1):
        raise ProofInvalid("it does not follow the one before: records were removed or moved.")
    shown = {name: (bytes.fromhex(salt), text.encode()) for name, (salt, text) in orjson.loads(row.groups).items()}
    record.verify_groups(fields.root, bytes(row.commitments), shown)
    if fields.kind != row.kind:
        raise _sought_otherwise()
    return {name: orjson.loads(content) if content else {} for name, (_, content) in shown.items()}


def _check_sought(
    row: _Stored, said: Mapping[str, Any], tag_key: bytes, combinations: Mapping[int, traits.Key] | None
) -> None:
    """Makes sure that a search finds a record by what it says, and by nothing that it does not say."""
    named = agent_tag(tag_key, row.agent) == row.agent_tag if "who" in said else row.agent == ""
    copied = all(
        getattr(row, column) == said.get(COPIED_FROM[column], {}).get(member, "") for column, member in _SAID.items()
    )
    passed_by = combinations is not None and not row.trait
    sorted_in = combinations is None or traits.fits(combinations.get(row.trait), row.human, row.kind, said)
    if not (named and copied and (sorted_in or passed_by) and _is_when(row.at, said.get("request"))):
        raise _sought_otherwise()
    if passed_by:
        raise _PassedBy("searches pass it by: a column was altered. The next start of the broker sorts it in.")


def _is_when(at: object, request: Mapping[str, Any] | None) -> bool:
    """Whether a record says that it was made then; where that was erased, the day is left."""
    if not isinstance(at, int | float) or not math.isfinite(at):
        return False
    return at % DAY_S == 0 if request is None else round(at * 1000) == request.get("at_ms", "")


def _sought_otherwise() -> ProofInvalid:
    return ProofInvalid("it is searched by what it does not say: a column was altered.")
