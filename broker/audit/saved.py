"""Saved queries: a name for a question that auditors ask again, of one operator or shared by all."""

from __future__ import annotations

import re
from typing import Any

import orjson
from sqlmodel import Field, Session, SQLModel, col, select

from broker.audit.disclosure import Disclosure
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.reads import ACTION, Reader
from broker.audit.search import Query, described_query
from broker.errors import Conflict, InvalidRequest, NotFound

SHARED = ""
"""Whose a query is that belongs to all."""

MAX_SAVED = 500
"""Queries that one operator may keep, and as many shared ones."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class SavedQueryRow(SQLModel, table=True):
    """One saved query. `operator` is its owner's principal id, `SHARED` for one of all; `query` is a JSON text."""

    __tablename__ = "saved_queries"

    operator: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    query: str
    changed_by: str
    changed_at: float


async def save(audit: AuditLog, name: str, query: Query | None, *, shared: bool, by: Reader, now: float) -> int | None:
    """Keeps a query under a name, or forgets what is kept there.

    Args:
        audit: the log.
        name: small letters, digits and . _ - up to 63.
        query: what to keep, None to forget.
        shared: for everybody; else for this operator alone.
        by: the operator.
        now: seconds since the epoch.

    Returns:
        The index of the record, if it is shared: other people's searches depend on it.

    Raises:
        InvalidRequest: no such name is possible, or there are too many.
        NotFound: there is nothing to forget.
        Conflict: the name is that of a shared query by something that is withheld from this operator.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRequest("A saved query's name is small letters, digits and . _ - up to 63.")
    asked = None if query is None else query.described()
    text = orjson.dumps(asked).decode()
    operator = SHARED if shared else by.id

    def change(session: Session) -> None:
        row = session.get(SavedQueryRow, (operator, name))
        if row is not None and not _told(row, by.disclosure):
            raise Conflict("Somebody keeps a query under this name that you are not shown. Choose another name.")
        if asked is None:
            if row is None:
                raise _unknown(name)
            session.delete(row)
        elif row is None and len(_of(session, operator)) >= MAX_SAVED:
            raise InvalidRequest(f"{MAX_SAVED} queries are kept here. Forget one first.")
        else:
            session.merge(SavedQueryRow(operator=operator, name=name, query=text, changed_by=by.id, changed_at=now))

    event = Event(
        Kind.SHARED_QUERY_CHANGED,
        agent=by.id,
        at=now,
        request_id=by.request_id,
        who={"agent": by.id, "roles": list(by.roles), "query": asked},
        what={"action": ACTION},
        request={"source": by.source},
        remedy={"name": name},
    )
    receipt = await audit.record(Step((event,) if shared else (), change=change))
    return receipt.indices[0] if shared else None


def saved(session: Session, operator: str, disclosure: Disclosure) -> list[dict[str, Any]]:
    """What an operator can run: the operator's own, then the shared ones, by name; none by what is withheld."""
    rows = [*_of(session, operator), *_of(session, SHARED)]
    return [
        {
            "name": row.name,
            "shared": row.operator == SHARED,
            "query": orjson.loads(row.query),
            "changed_by": disclosure.column("agent", row.changed_by),
            "changed_at_ms": int(row.changed_at * 1000),
        }
        for row in rows
        if _told(row, disclosure)
    ]


def refined(session: Session, name: str, asked: Query, *, by: Reader) -> Query:
    """The query kept under a name, the operator's own before a shared one; what is asked beside it goes first.

    Raises:
        NotFound: there is none, or a shared one by what is withheld: whoever is not shown it learns nothing of it.
    """
    row = session.get(SavedQueryRow, (by.id, name)) or session.get(SavedQueryRow, (SHARED, name))
    if row is None or not _told(row, by.disclosure):
        raise _unknown(name)
    return described_query({**orjson.loads(row.query), **asked.described()})


def _told(row: SavedQueryRow, disclosure: Disclosure) -> bool:
    """Whether somebody may be told a query: it is that operator's own, or looks into nothing that is withheld."""
    return row.operator != SHARED or disclosure.withholds(described_query(orjson.loads(row.query))) is None


def _of(session: Session, operator: str) -> list[SavedQueryRow]:
    statement = select(SavedQueryRow).where(SavedQueryRow.operator == operator).order_by(col(SavedQueryRow.name))
    return list(session.exec(statement))


def _unknown(name: str) -> NotFound:
    return NotFound(f"No query is saved as {name[:63]!r}. `broker audit saved` lists those that are.")
