"""What decisions were made from, stored once under its digest: records name it, and whoever asks again finds it.

A record says what was asked, and the digest of the entities that it was asked of. Those hardly ever change, so a
thousand records name one of them. It is stored in the transaction of the first record that names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from broker.db.engine import insert_rows, select_in

_KNOWN = 65_536
"""Digests remembered as stored; of others the table is asked."""


class EntitySliceRow(SQLModel, table=True):
    """The entities that a decision saw: canonical JSON under its SHA-256 in hexadecimal."""

    __tablename__ = "entity_slices"

    digest: str = Field(primary_key=True)
    content: bytes


class Input(NamedTuple):
    """A digest that a record names, and what it is the digest of."""

    digest: str
    content: bytes


class StoredInputs:
    """Which inputs are stored already. Belongs to the writer's thread."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._written: dict[str, None] = {}

    def store(self, connection: Connection, named: Iterable[Input]) -> None:
        """Stores those that are not, in the transaction of the records that name them."""
        fresh = {digest: content for digest, content in named if digest not in self._known}
        self._written = dict.fromkeys(fresh)
        if not fresh:
            return
        for (digest,) in select_in(connection, "entity_slices", "digest", "digest", fresh):
            del fresh[digest]
        insert_rows(connection, "entity_slices", ("digest", "content"), list(fresh.items()))

    def settle(self, *, committed: bool) -> None:
        """Takes in how the transaction ended."""
        if committed:
            self._known |= self._written
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        else:
            self._known.clear()
        self._written = {}


def sizes(connection: Connection, digests: Iterable[str]) -> dict[str, int]:
    """How many bytes are stored under these digests, of those that are."""
    rows = select_in(connection, "entity_slices", "digest, length(content)", "digest", digests)
    return {str(digest): int(size) for digest, size in rows}


def stored(connection: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """What is stored under these digests; those that are not, or were erased, are left out."""
    rows = select_in(connection, "entity_slices", "digest, content", "digest", digests)
    return {str(digest): bytes(content) for digest, content in rows}
