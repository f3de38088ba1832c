"""The whole log re-verified from its stored records, up to the checkpoint that the database holds."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sqlalchemy import Engine

from broker.audit.tree import stored_head
from broker.db.engine import execute, reading
from broker.errors import ProofInvalid
from broker.formats import checkpoint, record
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import Frontier, leaf_hash
from broker.formats.note import NoteVerifier


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


def recheck(engine: Engine, log_key: NoteVerifier) -> Rechecked:
    """Reads every record once, in the memory of one.

    1. The checkpoint is signed by the log's key.
    2. Indices are dense, each agent's numbers too, each leaf is its entry's, each group opens its commitment.
    3. The leaves under the checkpoint hash to its root (RFC 6962 §2.1).

    Raises:
        ProofInvalid, Malformed: the text names the record, or says that the checkpoint does not fit.
    """
    frontier, last, root = Frontier(), dict[str, int](), b""
    with reading(engine) as session:
        connection = session.connection()
        note = stored_head(connection)
        if note is None:
            raise ProofInvalid("The database holds no checkpoint: its log had not begun.")
        head = checkpoint.open_signed(note, log_key)
        rows = execute(
            connection, "SELECT idx, agent_tag, seq, entry, leaf, commitments, groups FROM records ORDER BY idx"
        )
        for idx, tag, seq, entry, leaf, commitments, groups in rows:
            fields = record.parse_entry(bytes(entry))
            if idx != frontier.size or (fields.agent_tag, fields.seq) != (tag, seq) or seq != last.get(tag, 0) + 1:
                raise ProofInvalid(f"Record {idx} does not follow the one before: records were removed or moved.")
            if bytes(leaf) != leaf_hash(bytes(entry)):
                raise ProofInvalid(f"Record {idx} is not the one that was hashed into the tree.")
            shown = {name: (bytes.fromhex(salt), text.encode()) for name, (salt, text) in orjson.loads(groups).items()}
            try:
                record.verify_groups(fields.root, bytes(commitments), shown)
            except ProofInvalid as error:
                raise ProofInvalid(f"Record {idx}: {error.detail}") from error
            last[tag] = seq
            frontier.append(bytes(leaf))
            if frontier.size == head.size:
                root = frontier.root()
    if root != head.root:
        raise ProofInvalid(f"The records do not hash to the checkpoint of {head.size}: they were replaced or removed.")
    return Rechecked(note, head, frontier.size)
