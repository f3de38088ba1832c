"""The tree's hashes as they are stored: leaves beside entries, and subtrees of 256 leaves, of 256 of those, and so on.

A subtree is stored when it is complete and never changes: an attacker who can modify them can at most make proofs that
do not verify.
"""

from __future__ import annotations

from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from broker.db.engine import BIG_INTEGER, execute
from broker.errors import ProofInvalid
from broker.formats import merkle

SPAN = 256


class SubtreeRow(SQLModel, table=True):
    """The hash over 256^level leaves beginning at n · 256^level."""

    __tablename__ = "subtrees"

    level: int = Field(primary_key=True)
    n: int = Field(primary_key=True, sa_type=BIG_INTEGER)
    hash: bytes


class Hashes:
    """The tree's hashes as stored, and those made in this integration that are not stored yet."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._fresh: dict[tuple[int, int], bytes] = {}

    def complete(self, old: int, new: int) -> list[tuple[int, int, bytes]]:
        """Makes the subtrees that become complete when the tree grows from `old` to `new`, as (level, n, hash)."""
        level, span = 1, SPAN
        while new // span > 0:
            for n in range(old // span, new // span):
                self._fresh[level, n] = merkle.root_of(self.nodes(level - 1, n * SPAN, SPAN))
            level, span = level + 1, span * SPAN
        return [(level, n, value) for (level, n), value in self._fresh.items()]

    def nodes(self, level: int, first: int, count: int) -> list[bytes]:
        """`count` neighbours from `first`: leaves at level 0, complete subtrees of 256^level leaves above."""
        if level == 0:
            found = self._stored(
                "SELECT leaf FROM records WHERE idx >= ? AND idx < ? ORDER BY idx", first, first + count
            )
        else:
            sql = "SELECT hash FROM subtrees WHERE n >= ? AND n < ? AND level = ? ORDER BY n"
            found = self._stored(sql, first, first + count, level)
            made = (self._fresh.get((level, n)) for n in range(first + len(found), first + count))
            found += [value for value in made if value is not None]
        if len(found) != count:
            raise ProofInvalid(
                f"the log lacks hashes from {first} to {first + count} on level {level}: rows were removed"
            )
        return found

    def hash_of(self, start: int, end: int) -> bytes:
        """The hash over the entries [start, end), a range of RFC 6962 §2.1."""
        width = end - start
        if width & (width - 1) == 0 and start % width == 0:
            level = (width.bit_length() - 1) // 8
            span = SPAN**level
            return merkle.root_of(self.nodes(level, start // span, width // span))
        split = 1 << ((width - 1).bit_length() - 1)
        return merkle.node_hash(self.hash_of(start, start + split), self.hash_of(start + split, end))

    def _stored(self, sql: str, *key: int) -> list[bytes]:
        return [bytes(row[0]) for row in execute(self._connection, sql, key)]
