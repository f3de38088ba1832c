"""Erasure: a group of a record is forgotten, salt and content, while everything that was proved stays provable.

The entry commits to seven salted groups. What is erased leaves its commitment behind, so the entry, its place in the
tree and all other groups verify as before; what the group said can no longer be shown, nor guessed and checked, for the
salt is gone. With a group go the columns that were copied from it for searching. Each batch is one step with its own
record, which says who erased which groups of which records, and why, and is never erased itself. The last batch of a
selection also deletes the inputs of decisions that no record of the principal keeps any more (`broker.audit.inputs`);
they are looked for outside of the transaction. Whoever dies anywhere between begins again with the same selection, and
finds done what is done. Nothing else in the broker takes anything from the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import orjson
from sqlmodel import Session, col, select, update

from broker.audit import inputs, traits
from broker.audit.disclosure import COPIED_FROM
from broker.audit.events import BROKER, Event, Kind
from broker.audit.inputs import Use
from broker.audit.log import AuditLog, RecordRow, Step
from broker.audit.stored_record import all_readable, readable_groups
from broker.clock import Clock
from broker.db.sqlite import overwriting
from broker.errors import Conflict, InvalidRequest
from broker.formats.record import GROUPS

MAX_BATCH = 500
"""Records in one step, and inputs of decisions, so that the writer is not kept from others for long."""

DAY_S = 86_400
"""To the day the time of a record is kept where it was erased."""

_COPIES: Mapping[str, Mapping[str, object]] = {group: {column: ""} for column, group in COPIED_FROM.items()}
"""What stands in the columns of a group that was erased; the time is kept to the day."""


T = TypeVar("T")


class Read(Protocol):
    """Runs a query in a session of its own, off the loop."""

    def __call__(self, query: Callable[[Session], T]) -> Awaitable[T]:
        """Gives what the query gives."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which groups of which records.

    Args:
        groups: their names.
        agent: whose records; a principal's id.
        after: records after this index; -1 for all.
        before_s: records that were made before this moment, in seconds, at least a day ago: what runs is left alone.
    """

    groups: tuple[str, ...]
    agent: str
    after: int
    before_s: float


@dataclass(frozen=True, slots=True)
class Erased:
    """What a batch did.

    Args:
        indices: of the records that lost a group.
        inputs: how many inputs of decisions the principal's records keep no more.
        record: the index of the record that says so; None if there was nothing to erase.
        next: go on after this index; None if nothing is left.
    """

    indices: tuple[int, ...]
    inputs: int
    record: int | None
    next: int | None


async def erase(
    audit: AuditLog, read: Read, selection: Selection, why: str, *, by: str, request_id: str, clock: Clock
) -> Erased:
    """Erases groups of the next records of a selection, and records that.

    Args:
        audit: the log.
        read: reads it.
        selection: which groups of which records.
        why: what the record of it says.
        by: who erases, a principal's id.
        request_id: in which request.
        clock: the time.

    Raises:
        InvalidRequest: no such group, or records of the last day.
        Conflict: a decision was made meanwhile on what was to be erased, or a record of those was altered; nothing was.
        Unavailable: nothing was erased, or it may have been: look for `RecordsErased`.
    """
    now, tag = clock.now(), audit.tag(selection.agent)
    check(selection, now, by=by)
    async with audit.inputs.erasing:
        found = await read(lambda session: find(session, selection, tag))
        altered = next((row.idx for row in found if all_readable(row.groups) is None), None)
        if altered is not None:
            raise Conflict(
                f"Record {altered}: its groups cannot be read: they were altered in the database. Put back the backup "
                "that has them, and erase then; nothing was erased now."
            )
        rows = [row for row in found if set(selection.groups) & readable_groups(row.groups).keys()]
        following = found[-1].idx if len(found) == MAX_BATCH else None
        indices = tuple(row.idx for row in rows)
        unnamed, looked = set[Use](), 0
        if following is None and inputs.KEEPING & set(selection.groups):
            unnamed, looked = await _unnamed(read, tag, set(indices))
        if len(unnamed) > MAX_BATCH:
            unnamed, following = set(sorted(unnamed)[:MAX_BATCH]), found[-1].idx if found else selection.after
        if not rows and not unnamed:
            return Erased((), 0, None, following)
        remedy = {
            "groups": list(selection.groups), "records": ranges(indices), "count": len(indices), "inputs": len(unnamed),
            "why": why,
        }  # fmt: skip
        event = Event(
            Kind.RECORDS_ERASED, agent=by, at=now, request_id=request_id,
            who={"agent": by}, what={"action": "erase"}, remedy=remedy,
        )  # fmt: skip

        def change(session: Session) -> None:
            with overwriting(session.connection()):
                if _forget(session, indices, selection.groups):
                    audit.traits.forget()
                audit.inputs.erase(session.connection(), unnamed, looked)

        receipt = await audit.record(Step((event,), change=change))
        return Erased(indices, len(unnamed), receipt.indices[0], following)


async def _unnamed(read: Read, tag: str, losing: Set[int]) -> tuple[set[Use], int]:
    """What no record of a principal keeps once `losing` have lost a group, and up to which number it was looked for.

    From the newest record on, for that one keeps most of what is left; a page at a time, for there may be many.
    """
    uses, last = await read(lambda session: inputs.unnamed(session.connection(), tag))
    before = last + 1
    while uses and before:
        named, before = await read(partial(_look, tag=tag, before=before, losing=losing))
        uses -= named
    return uses, last


def _look(session: Session, tag: str, before: int, losing: Set[int]) -> tuple[set[Use], int]:
    return inputs.look(session.connection(), tag, before, losing)


def _forget(session: Session, indices: Sequence[int], names: Sequence[str]) -> bool:
    """Takes groups from records, and what was copied from them; returns whether a combination is gone with them."""
    for row in session.exec(select(RecordRow).where(col(RecordRow.idx).in_(indices))).all():
        groups = orjson.loads(row.groups)
        values: dict[str, object] = {}
        for name in names:
            groups.pop(name, None)
            values |= _COPIES.get(name, {})
        if "request" in names:
            values["at"] = float(int(row.at) // DAY_S * DAY_S)
        session.exec(
            update(RecordRow).where(col(RecordRow.idx) == row.idx).values(groups=orjson.dumps(groups), **values)
        )
    return traits.sort_again(session.connection(), indices)


def find(session: Session, selection: Selection, agent_tag: str) -> Sequence[RecordRow]:
    """The next records of a selection, in the order of the log, at most `MAX_BATCH`; never those of an erasure.

    A principal's running numbers grow as the index does, and stand in an index of the database in that order.

    Args:
        session: reads.
        selection: which.
        agent_tag: the principal's pseudonym: it stays where the name was erased.
    """
    last = session.get(RecordRow, selection.after)
    number = last.seq if last is not None and last.agent_tag == agent_tag else 0
    statement = (
        select(RecordRow)
        .where(RecordRow.agent_tag == agent_tag, RecordRow.seq > number, RecordRow.idx > selection.after)
        .where(RecordRow.at < selection.before_s, RecordRow.kind != Kind.RECORDS_ERASED)
        .order_by(col(RecordRow.seq))
        .limit(MAX_BATCH)
    )
    return session.exec(statement).all()


def check(selection: Selection, now: float, *, by: str) -> None:
    """Refuses what cannot be erased.

    Raises:
        InvalidRequest: no group or an unknown one, nobody's records, the broker's own, those of whoever erases, or
            records of the last day.
    """
    unknown = [name for name in selection.groups if name not in GROUPS]
    if unknown or not selection.groups:
        raise InvalidRequest(f"Name the groups to erase, out of {', '.join(GROUPS)}.")
    if not selection.agent:
        raise InvalidRequest("Name whose records: the id of an agent or operator.")
    if selection.agent == BROKER:
        raise InvalidRequest("Records of the broker itself are of nobody, and are not erased.")
    if selection.agent == by:
        raise InvalidRequest("Nobody erases records of what they did themselves. Ask another operator to do it.")
    if selection.before_s > now - DAY_S:
        raise InvalidRequest("Records of the last day are not erased: what they belong to may still be running.")


def ranges(indices: Sequence[int]) -> list[list[int]]:
    """Sorted indices as ranges [first, last], as short as it can be said."""
    return [list(each) for each in _ranges(indices)]


def _ranges(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    if not indices:
        return
    first = last = indices[0]
    for index in indices[1:]:
        if index != last + 1:
            yield first, last
            first = index
        last = index
    yield first, last
