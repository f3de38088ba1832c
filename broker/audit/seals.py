"""Seals: what the broker commits is authenticated until a signed checkpoint covers it.

A checkpoint vouches for whatever it covers, so nothing may come under it that this broker did not write. With each
batch of records the log commits one row here, in the same transaction: HMAC-SHA256 over the place of the batch and its
leaves, under a key that is not in the database. Integration takes entries only as far as seals cover them, without a
gap, and then deletes these seals: the signature stands in their place.

An attacker who can write the database can neither add, alter nor reorder what is not covered yet. Taking off whole
batches at the end shows in a broker that runs, and not in one that was killed before it integrated them.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from broker.db.engine import BIG_INTEGER, execute, insert_rows
from broker.errors import ProofInvalid, Unavailable
from broker.formats.merkle import leaf_hash

_LABEL = b"broker: seals of records, 1"
_COLUMNS = ("first", "count", "mac")
_ADOPTED_AT_ONCE = 1024

_TO_DO = (
    "Somebody else writes to the broker's database: find out who, and go on as docs/operating.md says in "
    '"Records that the broker did not write"'
)


class SealRow(SQLModel, table=True):
    """The seal of one batch: entries `first` to `first` + `count` - 1."""

    __tablename__ = "seals"

    first: int = Field(primary_key=True, sa_type=BIG_INTEGER, sa_column_kwargs={"autoincrement": False})
    count: int = Field(sa_type=BIG_INTEGER)
    mac: bytes


class Seals:
    """Makes seals and opens them.

    Args:
        tag_key: the secret that another one is derived from (HKDF-SHA256, RFC 5869); it is not used itself.
    """

    def __init__(self, tag_key: bytes) -> None:
        self._key = HKDF(SHA256(), 32, salt=None, info=_LABEL).derive(tag_key)

    def seal(self, connection: Connection, first: int, leaves: Sequence[bytes]) -> None:
        """Seals the batch that is stored from entry `first` on, in the transaction that stores it."""
        if leaves:
            insert_rows(connection, "seals", _COLUMNS, [(first, len(leaves), self._mac(first, leaves))])

    def opened(self, connection: Connection, start: int, held: int, room: int) -> list[bytes]:
        """The leaves of the entries from `start` on, each from the entry itself, up to the end of a seal. Fails closed.

        Args:
            connection: shows one state of entries and seals.
            start: the first entry that no checkpoint covers.
            held: how many entries are stored.
            room: after so many leaves the seal that is reached is the last one.

        Raises:
            ProofInvalid: they are not as this broker wrote them; the text says which, and why.
        """
        seals, end = _tiling(connection, start, held, room)
        leaves: list[bytes] = []
        statement = "SELECT idx, entry, leaf FROM records WHERE idx >= ? AND idx < ? ORDER BY idx"
        for idx, entry, leaf in execute(connection, statement, (start, end)):
            if idx != start + len(leaves):
                raise _not_ours(start + len(leaves), idx - 1, "missing")
            hashed = leaf_hash(_bytes(entry))
            leaves.append(hashed)
            if hashed != leaf:
                raise _not_ours(idx, idx, "entry and hash do not fit each other")
        if start + len(leaves) < end:
            raise _not_ours(start + len(leaves), end - 1, "missing")
        for first, count, mac in seals:
            if not hmac.compare_digest(self._mac(first, leaves[first - start : first - start + count]), mac):
                raise _not_ours(first, first + count - 1, "the seal over them is another")
        return leaves

    def check(self, connection: Connection, start: int, held: int) -> None:
        """Opens every seal from `start` on; raises as `opened`."""
        while start < held:
            start += len(self.opened(connection, start, held, _ADOPTED_AT_ONCE))

    def adopt(self, connection: Connection, start: int, held: int) -> None:
        """Seals what a version of the broker that knew no seals left behind; see `KeyRing.seals_begun` for when."""
        for first in range(start, held, _ADOPTED_AT_ONCE):
            statement = "SELECT leaf FROM records WHERE idx >= ? AND idx < ? ORDER BY idx"
            found = execute(connection, statement, (first, min(first + _ADOPTED_AT_ONCE, held)))
            leaves = [bytes(leaf) for (leaf,) in found]
            execute(connection, "DELETE FROM seals WHERE first = ?", (first,))
            self.seal(connection, first, leaves)

    def _mac(self, first: int, leaves: Sequence[bytes]) -> bytes:
        place = first.to_bytes(8, "big") + len(leaves).to_bytes(8, "big")
        return hmac.digest(self._key, b"".join((_LABEL, place, *leaves)), hashlib.sha256)


def forget(connection: Connection, before: int) -> None:
    """Deletes the seals of entries before `before`: in the transaction that puts them under a checkpoint."""
    execute(connection, "DELETE FROM seals WHERE first < ?", (before,))


def not_continued(durable: int, held: int) -> Unavailable:
    """Why a log of `durable` entries does not go on in a database that holds `held`, of another writer or too few."""
    if held < durable:
        return Unavailable(
            f"The database holds {held} entries of {durable} that were durable. Bring back the one that has them, and "
            "restart the broker."
        )
    return Unavailable(
        f"{_named(durable, held - 1)} not written by this broker. Nothing is recorded after that, so nothing is "
        f"granted. {_TO_DO}."
    )


def _tiling(connection: Connection, start: int, held: int, room: int) -> tuple[list[tuple[int, int, bytes]], int]:
    """The seals from `start` on, each of which begins where the one before ends, and where the last one ends."""
    seals: list[tuple[int, int, bytes]] = []
    end = start
    statement = "SELECT first, count, mac FROM seals WHERE first >= ? ORDER BY first LIMIT ?"
    for first, count, mac in execute(connection, statement, (start, room)):
        if end - start >= room:
            return seals, end
        if first > end:
            raise _not_ours(end, first - 1, "no seal is over them" if end < held else "missing")
        if first < end or not isinstance(count, int) or count < 1:
            raise _not_ours(first, max(first, end - 1), "the seal over them is another")
        seals.append((first, count, _bytes(mac)))
        end = first + count
        if end > held:
            raise _not_ours(held, end - 1, "missing")
    if end - start < room and end < held:
        raise _not_ours(end, held - 1, "no seal is over them")
    return seals, end


def _not_ours(first: int, last: int, why: str) -> ProofInvalid:
    signed = "it was" if first == last else "they were"
    return ProofInvalid(
        f"{_named(first, last)} not written by this broker, or altered or removed before {signed} signed ({why}). "
        f"Nothing is signed from there on. {_TO_DO}"
    )


def _named(first: int, last: int) -> str:
    return f"Record {first} was" if first == last else f"Records {first} to {last} were"


def _bytes(value: Any) -> bytes:
    """What a column of bytes holds; nothing, if somebody put anything else there."""
    return value if isinstance(value, bytes) else b""
