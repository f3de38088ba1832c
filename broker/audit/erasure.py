"""Erasure: a group of a record is forgotten, salt and content, while everything that was proved stays provable.

The entry commits to seven salted groups. What is erased leaves its commitment behind, so the entry, its place in the
tree and all other groups verify as before; what the group said can no longer be shown, nor guessed and checked, for the
salt is gone. With a group go the columns that were copied from it for searching. Each batch is one step with its own
record, which says who erased which groups of which records, and why, and is never erased itself. Nothing else in the
broker takes anything from the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import orjson
from sqlmodel import Session, col, select, update

from broker.audit import traits
from broker.audit.disclosure import COPIED_FROM
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, RecordRow, Step
from broker.clock import Clock
from broker.errors import InvalidRequest
from broker.formats.record import GROUPS

MAX_BATCH = 500
"""Records in one step, so that the writer is not kept from others for long."""

DAY_S = 86_400
"""To the day the time of a record is kept where it was erased."""

_COPIES: Mapping[str, Mapping[str, object]] = {group: {column: ""} for column, group in COPIED_FROM.items()}
"""What stands in the columns of a group that was erased; the time is kept to the day."""


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
        record: the index of the record that says so; None if there was nothing to erase.
        next: go on after this index; None if nothing is left.
    """

    indices: tuple[int, ...]
    record: int | None
    next: int | None


async def erase(
    audit: AuditLog,
    selection: Selection,
    why: str,
    *,
    by: str,
    request_id: str,
    clock: Clock,
    read: Sequence[RecordRow],
) -> Erased:
    """Erases groups of the records that `find` gave, and records that.

    Raises:
        InvalidRequest: no such group, or records of the last day.
        Unavailable: nothing was erased, or it may have been: look for `RecordsErased`.
    """
    now = clock.now()
    check(selection, now)
    rows = [row for row in read if set(selection.groups) & orjson.loads(row.groups).keys()]
    following = read[-1].idx if len(read) == MAX_BATCH else None
    if not rows:
        return Erased((), None, following)
    indices = tuple(row.idx for row in rows)
    remedy = {"groups": list(selection.groups), "records": ranges(indices), "count": len(indices), "why": why}
    event = Event(
        Kind.RECORDS_ERASED, agent=by, at=now, request_id=request_id,
        who={"agent": by}, what={"action": "erase"}, remedy=remedy,
    )  # fmt: skip

    def change(session: Session) -> None:
        for row in session.exec(select(RecordRow).where(col(RecordRow.idx).in_(indices))).all():
            groups = orjson.loads(row.groups)
            values: dict[str, object] = {}
            for name in selection.groups:
                groups.pop(name, None)
                values |= _COPIES.get(name, {})
            if "request" in selection.groups:
                values["at"] = float(int(row.at) // DAY_S * DAY_S)
            session.exec(
                update(RecordRow).where(col(RecordRow.idx) == row.idx).values(groups=orjson.dumps(groups), **values)
            )
        traits.sort_again(session.connection(), indices)

    receipt = await audit.record(Step((event,), change=change))
    return Erased(indices, receipt.indices[0], following)


def find(session: Session, selection: Selection, agent_tag: str) -> Sequence[RecordRow]:
    """The next records of a selection, in the order of the log, at most `MAX_BATCH`; never those of an erasure.

    Args:
        session: reads.
        selection: which.
        agent_tag: the principal's pseudonym: it stays where the name was erased.
    """
    statement = (
        select(RecordRow)
        .where(RecordRow.agent_tag == agent_tag, RecordRow.idx > selection.after, RecordRow.at < selection.before_s)
        .where(RecordRow.kind != Kind.RECORDS_ERASED)
        .order_by(col(RecordRow.idx))
        .limit(MAX_BATCH)
    )
    return session.exec(statement).all()


def check(selection: Selection, now: float) -> None:
    """Refuses what cannot be erased.

    Raises:
        InvalidRequest: no group or an unknown one, nobody's records, or records of the last day.
    """
    unknown = [name for name in selection.groups if name not in GROUPS]
    if unknown or not selection.groups:
        raise InvalidRequest(f"Name the groups to erase, out of {', '.join(GROUPS)}.")
    if not selection.agent:
        raise InvalidRequest("Name whose records: the id of an agent or operator.")
    if selection.before_s > now - DAY_S:
        raise InvalidRequest("Records of the last day are not erased: what they belong to may still be running.")


def ranges(indices: Sequence[int]) -> list[list[int]]:
    """Sorted indices as ranges [first, last], as short as it can be said."""
    return [list(each) for each in _ranges(indices)]


def _ranges(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    first = last = indices[0]
    for index in indices[1:]:
        if index != last + 1:
            yield first, last
            first = index
        last = index
    yield first, last
