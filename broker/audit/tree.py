"""The Merkle tree over the entries (RFC 6962 §2.1), its checkpoints (C2SP tlog-checkpoint) and its proofs.

Order of integration: the entries are durable (stage) → their seals are opened → sign a checkpoint over them → keep it
beside the database → compare-and-swap the head → publish. A process that dies anywhere repeats it from the durable
entries; there is no other recovery.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Engine
from sqlmodel import Field, SQLModel

from broker.audit.log import stored_size
from broker.audit.log_keys import LogKeys
from broker.audit.published import Lost, PublishedCheckpoint
from broker.audit.seals import Seals, forget
from broker.audit.subtrees import SPAN, Hashes
from broker.db.engine import BIG_INTEGER, execute, insert_rows, reading, writing
from broker.errors import ConfigurationError, NotFound, ProofInvalid, Unavailable, VerificationFailed
from broker.formats import checkpoint, merkle, note
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import Frontier, leaf_hash
from broker.formats.note import NoteSigner, NoteVerifier

_CHUNK = 64 * SPAN
"""Leaves integrated under one checkpoint, so that a long backlog is worked off in bounded memory."""


class HeadRow(SQLModel, table=True):
    """The latest checkpoint: one row."""

    __tablename__ = "log_head"

    id: int = Field(primary_key=True)
    size: int = Field(sa_type=BIG_INTEGER)
    note: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far integration is behind.

    Args:
        records: how many entries are stored.
        covered: how many of them the newest checkpoint covers.
        newest_covered_at: when the newest of those was made, seconds; None for none.
        oldest_waiting_at: when the oldest of the others was made, seconds; None for none.
    """

    records: int
    covered: int
    newest_covered_at: float | None
    oldest_waiting_at: float | None


class AuditTree:
    """Integrates entries and proves them.

    Args:
        engine: the database that holds the records.
        keys: which keys sign; their name is the log's origin.
        seals: what the log seals its records with.
        published: keeps each checkpoint beside the database before it is published; None keeps nothing.
    """

    def __init__(
        self, engine: Engine, keys: LogKeys, seals: Seals, published: PublishedCheckpoint | None = None
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._seals = seals
        self._published = published
        self.covered = 0
        """How many entries the newest checkpoint covers that this process knows of; `integrate` follows it."""

    def check_key(self) -> None:
        """Makes sure that the newest checkpoint is this key's: a log never goes on under another. Call it at start.

        Raises:
            ConfigurationError: it is not.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            _, head = _head(connection)
            signer = self._keys.signing(connection)[0]
        try:
            if head is not None:
                signed_head(head, signer)
        except ProofInvalid as error:
            raise ConfigurationError(
                "the log's last checkpoint is not signed by the log's key in the folder keys; restore the keys that "
                "belong to the database"
            ) from error

    def lost(self) -> Lost | None:
        """What was published and is not stored any more: an older database was put in place. Call it at start, first.

        Records that were altered are never taken for lost ones: nobody goes on from those.

        Raises:
            ConfigurationError: the checkpoint that was kept is not of this log.
            ProofInvalid: the database lacks entries of its own checkpoint, or holds others than were published.
        """
        kept = self._published.read() if self._published is not None else None
        with reading(self._engine) as session:
            connection = session.connection()
            held, (covered, head) = stored_size(connection), _head(connection)
            if held < covered:
                raise _removed(held, covered)
            hashes = Hashes(connection)
            if head is not None and hashes.hash_of(0, covered) != checkpoint.parse_unverified(head).root:
                raise _altered(connection, covered)
            if kept is None:
                return Lost(None, "", held)
            try:
                newest = self._keys.open(connection, kept)
            except VerificationFailed as error:
                raise ConfigurationError(
                    f"the file `checkpoint` in the data folder is not of this log: {error.detail} Put back the one "
                    "that belongs to these keys"
                ) from error
            if newest.size > held:
                return Lost(newest.size, note.encode_base64(newest.root), held)
            hashes.complete(covered, newest.size)
            if hashes.hash_of(0, newest.size) != newest.root:
                raise _altered(connection, newest.size)
            return None

    def integrate(self) -> str | None:
        """Brings the tree up to the durable entries; returns the newest checkpoint, or None for an empty log.

        Raises:
            ProofInvalid: the log does not continue its last checkpoint, for entries were removed or replaced, or it
                goes on with what this broker did not write. Nothing is signed, so that the broker never vouches for two
                histories, nor for somebody else's.
        """
        while True:
            with reading(self._engine) as session:
                connection = session.connection()
                (old, head), held = _head(connection), stored_size(connection)
                if held < old:
                    raise _removed(held, old)
                if held == old:
                    self.covered = old
                    return head
                signers = self._keys.signing(connection)  # as the head that is followed: a change of keys changes both
                hashes = Hashes(connection)
                edge = Frontier.from_nodes(old, hashes.hash_of)
                if head is not None and edge.root() != signed_head(head, signers[0]).root:
                    raise _altered(connection, old)
                # the root is over these and what was signed: no stored hash above the new ones counts for it
                edge.extend(self._seals.opened(connection, old, held, _CHUNK))
                size, subtrees = edge.size, hashes.complete(old, edge.size)
            signed = checkpoint.sign(Checkpoint(signers[0].name, size, edge.root()), *signers)
            if self._published is not None:
                self._published.keep(signed)
            with writing(self._engine) as connection:
                if _swap(connection, old, head, size, signed):
                    insert_rows(connection, "subtrees", ("level", "n", "hash"), subtrees)
                    forget(connection, size)

    def adopt(self) -> None:
        """Seals what waits for integration since a version that knew no seals; see `KeyRing.seals_begun` for when."""
        with writing(self._engine) as connection:
            self._seals.adopt(connection, _head(connection)[0], stored_size(connection))

    def backlog(self) -> Backlog:
        """How far integration is behind the stored entries."""
        with reading(self._engine) as session:
            connection = session.connection()
            covered, _ = _head(connection)
            rows = execute(connection, "SELECT idx, at FROM records WHERE idx IN (?, ?)", (covered - 1, covered))
            at = {int(idx): float(moment) for idx, moment in rows}
            return Backlog(stored_size(connection), covered, at.get(covered - 1), at.get(covered))

    def successions(self) -> tuple[str, ...]:
        """The statements by which one key of the log was followed by another, in order."""
        with reading(self._engine) as session:
            return self._keys.statements(session.connection())

    def head(self) -> str:
        """The newest checkpoint, a signed note.

        Raises:
            NotFound: nothing has been recorded yet.
        """
        with reading(self._engine) as session:
            _, head = _head(session.connection())
        if head is None:
            raise NotFound("The log has no checkpoint yet. Try again in a second.")
        return head

    def root(self, size: int) -> bytes:
        """The root of the tree over the first `size` entries, 32 bytes.

        Raises:
            NotFound: the tree of that size does not exist.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            if not 0 < size <= stored_size(connection):
                raise NotFound(f"There is no tree of {size} entries.")
            return Hashes(connection).hash_of(0, size)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """The inclusion proof of entry `index` in the tree of `size` entries (RFC 6962 §2.1.1).

        Raises:
            NotFound: the tree of that size does not exist, or does not hold the entry.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            if not 0 <= index < size <= stored_size(connection):
                raise NotFound(f"There is no tree of {size} entries that holds entry {index}.")
            return merkle.inclusion_proof(index, size, Hashes(connection).hash_of)

    def inclusions(self, indices: Sequence[int], size: int) -> list[list[bytes]]:
        """The inclusion proofs of several entries in one tree; neighbours share most of what is read for them.

        Raises:
            NotFound: the tree of that size does not exist, or does not hold one of the entries.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            if not all(0 <= index < size for index in indices) or size > stored_size(connection):
                raise NotFound(f"There is no tree of {size} entries that holds all of these.")
            hash_of = cache(Hashes(connection).hash_of)
            return [merkle.inclusion_proof(index, size, hash_of) for index in indices]

    def vouch(self, head: str, text: str) -> str:
        """Signs what is said beside a checkpoint, with the keys that sign checkpoints; never a checkpoint itself.

        Raises:
            Unavailable: another key signs checkpoints by now. Nothing is signed, so that one key stands for both.
        """
        with reading(self._engine) as session:
            signers = self._keys.signing(session.connection())
        by = note.unverified_signers(head)
        if not any(NoteVerifier.parse(signers[0].vkey).key_id == key_id for _, key_id in by):
            raise Unavailable("The log's key was replaced meanwhile. Ask again.")
        signed = signers[0].sign(text)
        for other in signers[1:]:
            signed = other.cosign(signed)
        return signed

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of `new` entries begins with the tree of `old` (RFC 6962 §2.1.2).

        Raises:
            NotFound: one of the trees does not exist.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            if not 0 < old <= new <= stored_size(connection):
                raise NotFound(f"There are no trees of {old} and {new} entries.")
            return merkle.consistency_proof(old, new, Hashes(connection).hash_of)

    def tile(self, level: int, n: int, width: int) -> bytes:
        """`width` hashes of tile (level, n), each 32 bytes (C2SP tlog-tiles).

        Raises:
            NotFound: the tree under the newest checkpoint has no such tile.
        """
        with reading(self._engine) as session:
            connection = session.connection()
            size, _ = _head(connection)
            if not (0 < width <= SPAN and 0 <= level < 8 and n >= 0 and (n * SPAN + width) * SPAN**level <= size):
                raise NotFound("The tree under the newest checkpoint has no such tile.")
            return b"".join(Hashes(connection).nodes(level, n * SPAN, width))


def stored_head(connection: Connection) -> str | None:
    """The newest checkpoint that a database holds, a signed note."""
    return _head(connection)[1]


def sign_head_again(connection: Connection, head: str, signed: str) -> bool:
    """Puts other signatures under the head, if it is still `head`."""
    size = checkpoint.parse_unverified(head).size
    return _swap(connection, size, head, size, signed)


def signed_head(head: str, signer: NoteSigner) -> Checkpoint:
    """A stored head, once it is seen that the log's key signed it.

    Raises:
        ProofInvalid: it did not.
    """
    try:
        return checkpoint.open_signed(head, NoteVerifier.parse(signer.vkey))
    except VerificationFailed as error:
        raise ProofInvalid(
            f"the log's last checkpoint is not signed by the log's key: {error.detail} It was altered or replaced; "
            "restore the database from a backup. Nothing is signed after it"
        ) from error


def _removed(held: int, covered: int) -> ProofInvalid:
    return ProofInvalid(
        f"the log holds {held} entries but its last checkpoint covers {covered}: entries were removed; "
        "restore the database from a backup that has them"
    )


def _altered(connection: Connection, size: int) -> ProofInvalid:
    """Records that were published are other ones now; says which, as far as what is stored beside them tells."""
    where = next(_unfit(connection, size), "which of them cannot be told from what is stored")
    return ProofInvalid(
        f"the first {size} entries are not those of the last checkpoint: entries were altered or replaced ({where}). "
        "Restore the data from a backup that has them; nothing is signed over these"
    )


def _unfit(connection: Connection, size: int) -> Iterator[str]:
    """Entries that are not the ones hashed, then spans that are not those of a stored subtree, then holes."""
    rows = execute(connection, "SELECT idx, entry, leaf FROM records WHERE idx < ? ORDER BY idx", (size,))
    for index, (idx, entry, leaf) in enumerate(rows):
        if idx != index:
            yield f"record {index} is missing"
        if leaf_hash(bytes(entry)) != bytes(leaf):
            yield f"record {idx} is not the one that was hashed"
    hashes = Hashes(connection)
    for n, stored in execute(connection, "SELECT n, hash FROM subtrees WHERE level = 1 ORDER BY n").all():
        if (n + 1) * SPAN <= size and merkle.root_of(hashes.nodes(0, n * SPAN, SPAN)) != bytes(stored):
            yield f"one of the records {n * SPAN} to {(n + 1) * SPAN - 1}, or the hash over them"


def _head(connection: Connection) -> tuple[int, str | None]:
    row = execute(connection, "SELECT size, note FROM log_head WHERE id = 1").first()
    return (0, None) if row is None else (int(row[0]), str(row[1]))


def _swap(connection: Connection, old: int, head: str | None, new: int, note: str) -> bool:
    """Replaces the head only if it is still the one we started from, to the last signature."""
    if head is None:
        statement = "INSERT INTO log_head (id, size, note) VALUES (1, ?, ?) ON CONFLICT (id) DO NOTHING"
        done = execute(connection, statement, (new, note))
    else:
        statement = "UPDATE log_head SET size = ?, note = ? WHERE id = 1 AND size = ? AND note = ?"
        done = execute(connection, statement, (new, note, old, head))
    return done.rowcount == 1
