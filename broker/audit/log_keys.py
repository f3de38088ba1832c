"""Which keys sign the log's checkpoints, and how one is followed by another.

The first key is the one that the log began with. Each later one has a row here with the statement of its succession,
made in the transaction that records it and that signs the head again: from then on nothing is signed without the new
key. For a while the old key signs beside it, for verifiers that do not follow by themselves. Then its private half is
destroyed.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection
from sqlmodel import Field, Session, SQLModel, col, select

from broker.db.engine import BIG_INTEGER
from broker.errors import ConfigurationError, Malformed, ProofInvalid
from broker.formats import checkpoint, note
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier


class SuccessionRow(SQLModel, table=True):
    """One succession of the log's keys, in order of `id`. Times in seconds."""

    __tablename__ = "log_successions"

    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    old: str
    new: str
    size: int = Field(sa_type=BIG_INTEGER)
    statement: str
    made_at: float
    overlaps_until: float
    ended_at: float | None = None


class LogKeys:
    """The log's keys.

    Args:
        signers: the private halves that are here, by what verifiers pin; followed as it changes.
        first: the key that the log began with; None if it was destroyed.
    """

    def __init__(self, signers: Mapping[str, NoteSigner], first: NoteSigner | None) -> None:
        self._signers = signers
        self._first = first.vkey if first is not None else None
        self.vkey = self._first or ""
        """What verifiers pin now; `load` reads it."""

    def load(self, connection: Connection) -> None:
        """Reads which key signs now.

        Raises:
            ConfigurationError: its private half is not here.
        """
        self.vkey = self.signing(connection)[0].vkey

    def signing(self, connection: Connection) -> tuple[NoteSigner, ...]:
        """The keys that sign a checkpoint now: the current one first, then those that it follows.

        Raises:
            ConfigurationError: the private half of one is not here. Fails closed.
        """
        rows = _rows(connection)
        names = [rows[-1].new, *(row.old for row in reversed(rows) if row.ended_at is None)] if rows else [self._first]
        found = []
        for name in names:
            signer = self._signers.get(name or "")
            if signer is None:
                told = f"log-{name.split('+')[1]}.pem (or log.pem)" if name else "log.pem"
                raise ConfigurationError(
                    f"the log's key is missing from the data folder: keys/{told}; restore it from the backup that the "
                    "database comes from"
                )
            found.append(signer)
        return tuple(found)

    def statements(self, connection: Connection) -> tuple[str, ...]:
        """Every succession of the log's keys, in order, as verifiers get them."""
        return tuple(row.statement for row in _rows(connection))

    def open(self, connection: Connection, signed: str) -> Checkpoint:
        """Verifies a checkpoint that this log stored or kept itself, under whichever of its keys.

        Raises:
            ProofInvalid: none of them signed it.
        """
        rows = _rows(connection)
        names = [rows[0].old, *(row.new for row in rows)] if rows else [self._first or ""]
        try:
            signers = note.unverified_signers(signed)
        except Malformed as error:
            raise ProofInvalid(error.detail) from error
        for verifier in map(NoteVerifier.parse, names):
            if (verifier.name, verifier.key_id) in signers:
                return checkpoint.open_signed(signed, verifier)
        raise ProofInvalid("No key of this log signed it.")


def _rows(connection: Connection) -> list[SuccessionRow]:
    with Session(bind=connection, join_transaction_mode="rollback_only", expire_on_commit=False) as session:
        return list(session.exec(select(SuccessionRow).order_by(col(SuccessionRow.id))))
