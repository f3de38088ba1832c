"""What decisions were made from, stored once under its digest: records name it, and whoever asks again finds it.

A record says what was asked, and the digest of the entities that it was asked of. Those hardly ever change, so a
thousand records name one of them. It is stored in the transaction of the first record that names it, and beside it
whose records name it: one row for each principal, however many its records are. So an erasure looks at the records of
that principal alone, and what nobody names any more is deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection
from sqlmodel import Field, SQLModel

from broker.audit.stored_record import readable_groups
from broker.db.engine import execute, insert_rows, select_in
from broker.errors import Conflict

KEEPING = frozenset({"who", "for_whom", "what", "decision", "posture"})
"""Groups whose content a slice repeats: a record that has lost one of them keeps no slice any more, and nobody is shown
a slice who is not shown all of them."""

_PAGE = 500
_KNOWN = 65_536
"""Digests remembered as stored, with the principal whose records name them; others are stored if they are not yet."""


class EntitySliceRow(SQLModel, table=True):
    """The entities that a decision saw: canonical JSON under its SHA-256 in hexadecimal."""

    __tablename__ = "entity_slices"

    digest: str = Field(primary_key=True)
    content: bytes


class SliceUseRow(SQLModel, table=True):
    """That records of a principal, by its pseudonym, name a digest."""

    __tablename__ = "slice_uses"

    agent_tag: str = Field(primary_key=True)
    digest: str = Field(primary_key=True, index=True)


class Input(NamedTuple):
    """A digest that a record names, and what it is the digest of."""

    digest: str
    content: bytes


class Use(NamedTuple):
    """A digest that records of a principal name."""

    agent_tag: str
    digest: str


class StoredInputs:
    """Which inputs are stored already. Belongs to the writer's thread, but for `erasing`.

    Attributes:
        erasing: held while inputs are looked for and erased: two who look at once each see the records that the other
            is about to erase, and would leave what these keep.
    """

    def __init__(self) -> None:
        self.erasing = asyncio.Lock()
        self._known: dict[tuple[str, str], None] = {}  # uses; plain tuples are made in half the time
        self._written: dict[tuple[str, str], None] = {}

    def store(self, connection: Connection, named: Iterable[tuple[str, Input]]) -> None:
        """Stores those that are not, in the transaction of the records that name them.

        Args:
            connection: the transaction, in which everything else was done already that erases inputs.
            named: the pseudonym of the principal whose record names it, and what it names.
        """
        fresh = {use: each for tag, each in named if (use := (tag, each.digest)) not in self._known}
        self._written = dict.fromkeys(fresh)
        if not fresh:
            return
        contents = {each.digest: each.content for each in fresh.values()}
        for (digest,) in select_in(connection, "entity_slices", "digest", "digest", contents):
            del contents[digest]
        insert_rows(connection, "entity_slices", ("digest", "content"), list(contents.items()))
        insert_rows(connection, "slice_uses", Use._fields, list(fresh), unless_there=True)

    def erase(self, connection: Connection, uses: Collection[Use], after: int) -> None:
        """Deletes what these uses stand for, and each input that nobody else names; for a change, in its transaction.

        Args:
            connection: the transaction.
            uses: of one principal; from `unnamed`.
            after: up to this running number the principal's records were looked through.

        Raises:
            Conflict: a record that came later names one of them.
        """
        tags = {use.agent_tag for use in uses}
        for tag in tags:
            statement = "SELECT groups FROM records WHERE agent_tag = ? AND seq > ?"
            for (groups,) in execute(connection, statement, (tag, after)):
                if not uses_of(tag, readable_groups(groups)).isdisjoint(uses):
                    raise Conflict("A decision was made meanwhile on what was about to be erased. Try again.")
        for use in uses:
            self._known.pop(use, None)  # whoever names it next stores it again, in this very transaction too
            execute(connection, "DELETE FROM slice_uses WHERE agent_tag = ? AND digest = ?", use)
            execute(
                connection,
                "DELETE FROM entity_slices WHERE digest = ? "
                "AND NOT EXISTS (SELECT 1 FROM slice_uses WHERE slice_uses.digest = entity_slices.digest)",
                (use.digest,),
            )

    def settle(self, *, committed: bool) -> None:
        """Takes in how the transaction ended."""
        if committed:
            self._known |= self._written
            while len(self._known) > _KNOWN:
                del self._known[next(iter(self._known))]
        else:
            self._known.clear()
        self._written = {}


def uses_of(agent_tag: str, groups: Mapping[str, Sequence[str]]) -> set[Use]:
    """What a record's decisions name; nothing if the record has lost what a slice would repeat.

    Args:
        agent_tag: the record's.
        groups: (salt, content) by name, as they are stored.
    """
    if not groups.keys() >= KEEPING or not groups["decision"][1]:
        return set()
    return {Use(agent_tag, digest) for digest in named(orjson.loads(groups["decision"][1]))}


def named(decision: object) -> set[str]:
    """The digests that a decision names, at any depth."""
    if not isinstance(decision, dict):
        return set()
    mine = {decision["entities"]} if decision.get("entities") else set()
    return mine.union(*map(named, decision.values()))


def unnamed(connection: Connection, agent_tag: str) -> tuple[set[Use], int]:
    """All uses of a principal, none of them looked for yet, and the running number of its newest record."""
    found = execute(connection, "SELECT digest FROM slice_uses WHERE agent_tag = ?", (agent_tag,))
    uses = {Use(agent_tag, digest) for (digest,) in found}
    last = execute(connection, "SELECT max(seq) FROM records WHERE agent_tag = ?", (agent_tag,)).scalar()
    return uses, last or 0


def look(connection: Connection, agent_tag: str, before: int, losing: Collection[int]) -> tuple[set[Use], int]:
    """What a page of a principal's records still names, newest first, and the running number before which to go on.

    Args:
        connection: reads.
        agent_tag: the principal's.
        before: the records with smaller running numbers.
        losing: indices of records that are about to be erased: they count for nothing.
    """
    statement = "SELECT idx, seq, groups FROM records WHERE agent_tag = ? AND seq < ? ORDER BY seq DESC LIMIT ?"
    rows: list[Any] = list(execute(connection, statement, (agent_tag, before, _PAGE)))
    uses = [uses_of(agent_tag, readable_groups(groups)) for idx, _, groups in rows if idx not in losing]
    return set[Use]().union(*uses), int(rows[-1][1]) if len(rows) == _PAGE else 0


def sizes(connection: Connection, digests: Iterable[str]) -> dict[str, int]:
    """How many bytes are stored under these digests, of those that are."""
    rows = select_in(connection, "entity_slices", "digest, length(content)", "digest", digests)
    return {str(digest): int(size) for digest, size in rows}


def stored(connection: Connection, digests: Iterable[str]) -> dict[str, bytes]:
    """What is stored under these digests; those that are not, or were erased, are left out."""
    rows = select_in(connection, "entity_slices", "digest, content", "digest", digests)
    return {str(digest): bytes(content) for digest, content in rows}
