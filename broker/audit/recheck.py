"""The whole log re-verified from its stored records, up to the checkpoint that the database holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Engine, inspect

from broker.audit import erasures, traits
from broker.audit.erasures import Erasures
from broker.audit.log import agent_tag
from broker.audit.seals import Seals
from broker.audit.tree import stored_head
from broker.db.engine import execute, reading
from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint, record
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import Frontier, leaf_hash
from broker.formats.note import NoteVerifier

_SOUGHT = (("request", "at_ms"), ("request", "id"), ("decision", "outcome"), ("what", "model"))
"""Where a record says what stands in the columns at, request_id, outcome and model."""


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


def recheck(engine: Engine, log_key: NoteVerifier, tag_key: bytes) -> Rechecked:
    """Reads every record once, in the memory of one.

    1. The checkpoint is signed by the log's key.
    2. Indices are dense, each agent's numbers too, each leaf is its entry's, each group opens its commitment.
    3. A group that is not there was erased, as a record of the erasure says (`broker.audit.erasures`).
    4. What a search goes by is what the record says, as far as its groups are there.
    5. The leaves under the checkpoint hash to its root (RFC 6962 §2.1).
    6. What waits for a checkpoint is sealed as the broker wrote it (`broker.audit.seals`).

    Raises:
        ProofInvalid, Malformed: the text names the record, or says that the checkpoint does not fit.
    """
    frontier, last, root, erased = Frontier(), dict[str, int](), b"", Erasures()
    with reading(engine) as session:
        connection = session.connection()
        note = stored_head(connection)
        if note is None:
            raise ProofInvalid("The database holds no checkpoint: its log had not begun.")
        head = checkpoint.open_signed(note, log_key)
        combinations = traits.stored(connection)
        sorted_in = "trait, human" if combinations is not None else "0, ''"
        for each in erasures.stored(connection, by_trait=combinations is not None):
            erased.add(each.idx, each.remedy())  # that it is the one in the tree is seen below, when its turn comes
        rows = execute(
            connection,
            f"SELECT idx, {sorted_in}, agent_tag, seq, entry, leaf, commitments, groups, agent, kind, at, request_id, "  # noqa: S608  column names are constants here
            "outcome, model FROM records ORDER BY idx",
        )
        for idx, trait, human, *columns in rows:
            try:
                leaf, tag, seq, said = _checked(idx == frontier.size, last, tag_key, *columns)
                if trait and not traits.fits((combinations or {}).get(trait), human, columns[7], said):
                    raise _sought_otherwise()
            except (ProofInvalid, Malformed) as error:
                raise ProofInvalid(f"Record {idx}: {error.detail}") from error
            except (ValueError, TypeError, AttributeError) as error:
                raise ProofInvalid(f"Record {idx}: its groups cannot be read: they were altered.") from error
            erased.check(idx, columns[7], said)
            last[tag] = seq
            frontier.append(leaf)
            if frontier.size == head.size:
                root = frontier.root()
        if root == head.root and inspect(connection).has_table("seals"):  # else of a broker that knew none
            Seals(tag_key).check(connection, head.size, frontier.size)
    if root != head.root:
        raise ProofInvalid(f"The records do not hash to the checkpoint of {head.size}: they were replaced or removed.")
    return Rechecked(note, head, frontier.size)


def _checked(
    dense: bool,
    last: Mapping[str, int],
    tag_key: bytes,
    tag: str,
    seq: int,
    entry: bytes,
    leaf: bytes,
    commitments: bytes,
    groups: bytes,
    agent: str,
    *sought: object,
) -> tuple[bytes, str, int, dict[str, Any]]:
    """Checks one record's columns; gives its leaf, its agent's pseudonym and number, and what its groups say."""
    if bytes(leaf) != leaf_hash(bytes(entry)):
        raise ProofInvalid("it is not the one that was hashed into the tree: it was altered.")
    fields = record.parse_entry(bytes(entry))
    if not dense or (fields.agent_tag, fields.seq) != (tag, seq) or seq != last.get(tag, 0) + 1:
        raise ProofInvalid("it does not follow the one before: records were removed or moved.")
    shown = {name: (bytes.fromhex(salt), text.encode()) for name, (salt, text) in orjson.loads(groups).items()}
    record.verify_groups(fields.root, bytes(commitments), shown)
    renamed = "who" in shown and agent_tag(tag_key, agent) != tag
    said = {name: orjson.loads(content) if content else {} for name, (_, content) in shown.items()}
    if renamed or _differs(fields.kind, said, sought):
        raise _sought_otherwise()
    return bytes(leaf), tag, seq, said


def _sought_otherwise() -> ProofInvalid:
    return ProofInvalid("it is searched by what it does not say: a column was altered.")


def _differs(kind: str, said: Mapping[str, Any], sought: Sequence[object]) -> bool:
    """Whether the columns that a search goes by say something else than the record's groups that are there."""
    stored = (round(float(str(sought[1])) * 1000), *sought[2:])
    return sought[0] != kind or any(
        group in said and said[group].get(member, "") != value
        for (group, member), value in zip(_SOUGHT, stored, strict=True)
    )
