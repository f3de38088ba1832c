"""Exports: every record of a stretch of the log as a line of JSON, in order, with cursors between them.

A stretch ends at the newest checkpoint, so that what is exported can be proved, and is exported once: the next one
begins there. Pages are read one at a time, each in a session of its own, when whoever reads has taken the one before.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

import orjson
from sqlmodel import Session

from broker.audit import erasures, trail
from broker.audit.continuity import Continuity, Gap
from broker.audit.disclosure import Disclosure
from broker.audit.log import RecordRow
from broker.audit.ranges import MAX_BYTES
from broker.audit.stored_record import at_ms
from broker.audit.trail import Query
from broker.audit.tree import AuditTree
from broker.db.engine import execute
from broker.errors import BrokerError, Conflict, InvalidToken, Malformed, NotFound, ProofInvalid
from broker.formats import checkpoint, note, record

PAGE = 500
PAGES_A_REQUEST = 100
"""After so many the reader asks again, with a token that is still good: a role that was taken away ends an export."""

_CURSOR = re.compile(r"(\d{1,18}):(\d{1,18}):([0-9a-f]{64})", re.ASCII)

Read = Callable[[Callable[[Session], "_Page"]], Awaitable["_Page"]]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where an export goes on, written `next:size:root`.

    Args:
        next: the index of the first record that was not looked at yet.
        size: how many entries the checkpoint covered up to which the export went.
        root: the root of that checkpoint, 32 bytes: a log that does not begin with its entries is another one.
    """

    next: int
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.next}:{self.size}:{self.root.hex()}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Reads what `str` wrote.

        Raises:
            Malformed: it is no cursor.
        """
        found = _CURSOR.fullmatch(text)
        if found is None or int(found[1]) > int(found[2]):
            raise Malformed("`after` is no cursor of an export. Give the one that the last export ended with, whole.")
        return cls(int(found[1]), int(found[2]), bytes.fromhex(found[3]))


def begin(tree: AuditTree, after: str) -> Cursor:
    """Where an export begins, and how far it goes: up to the newest checkpoint.

    Args:
        tree: the log's tree.
        after: the cursor of the export before; empty to begin with the first record.

    Raises:
        Malformed: it is no cursor.
        Conflict: the log does not begin with what was exported before, or is not whole enough to tell. Fails closed.
        NotFound: there is no checkpoint yet.
    """
    head = checkpoint.parse_unverified(tree.head())
    if not after:
        return Cursor(0, head.size, head.root)
    before = Cursor.parse(after)
    try:
        same = before.size <= head.size and tree.root(before.size) == before.root
    except NotFound:
        same = False
    except ProofInvalid as error:
        raise Conflict(
            f"The log cannot be held against the cursor: {error.detail}. Ask the operators for the backup that is "
            "whole; to find the place, export without a cursor.",
            reason="gap",
        ) from error
    if not same:
        raise Conflict(
            f"The log does not begin with the {before.size} entries that the cursor was given for: it was restored or "
            "replaced. `broker audit checkpoint` shows which; to export this log, begin without a cursor.",
            reason="log_differs",
        )
    return Cursor(before.next, head.size, head.root)


async def stream(read: Read, query: Query, start: Cursor, disclosure: Disclosure) -> AsyncIterator[bytes]:
    """A page at a time: lines of records, then a line `{"export": {"cursor"}}` that covers all before it.

    The last line holds `more` too: whether the stretch goes on. Where the export cannot go on it holds `error` and
    `detail` instead, and the cursor of what is whole: at a gap, and at a record of which a group is gone or unreadable
    and was not erased. A stream without such a last line broke off.

    Args:
        read: runs a query in a session of its own, off the loop; refuses it when the reader may not go on.
        query: filters; its paging counts for nothing. Without a filter, the export fails at the first gap.
        start: from `begin`.
        disclosure: what the reader is shown; the query is one of which it withholds nothing.
    """
    whole = replace(query, after=None, limit=0, oldest_first=False) == Query(limit=0)
    continuity = Continuity(start.next) if whole else None
    at = start
    try:
        for left in range(PAGES_A_REQUEST - 1, -1, -1):
            page = await read(partial(_page, query=query, at=at, continuity=continuity, disclosure=disclosure))
            at = page.end
            if page.problem is not None:
                yield b"".join([*page.lines, _told(at, error=page.problem.reason, detail=page.problem.detail)])
                return
            if at.next == at.size or not left:
                yield b"".join([*page.lines, _told(at, more=at.next < at.size)])
                return
            yield b"".join([*page.lines, _told(at)])
    except InvalidToken:  # what comes next is asked for with a fresh one
        yield _told(at, more=True)
    except BrokerError as error:
        yield _told(at, error=error.reason, detail=error.detail)


@dataclass(frozen=True, slots=True)
class _Page:
    """Lines of records, the cursor that covers them, and why it goes no further, if it cannot."""

    lines: list[bytes]
    end: Cursor
    problem: BrokerError | None = None


def _page(session: Session, query: Query, at: Cursor, continuity: Continuity | None, disclosure: Disclosure) -> _Page:
    rows = trail.page(session, replace(query, after=at.next - 1, below=at.size, limit=PAGE, oldest_first=True))
    following = rows[-1].idx + 1 if len(rows) == PAGE else at.size
    lacking = {row.idx for row in rows if trail.absent(row.groups)}
    erased = erasures.of_records(session.connection(), lacking)
    lines, held, place = list[bytes](), 0, at.next
    try:
        for row in rows:
            place = row.idx
            held += len(row.groups)
            if lines and held > MAX_BYTES:
                following = row.idx
                break
            if continuity is not None:
                continuity.follow(row.idx, row.agent_tag, row.seq, partial(_place, session))
            if row.idx in lacking:
                trail.check_whole(row, erased.get(row.idx, ()))
            lines.append(line(row, disclosure))
        if continuity is not None and following == at.size:
            continuity.end(at.size)
    except Gap as gap:
        return _Page(lines, replace(at, next=at.next + len(lines)), gap)
    except Conflict as incomplete:
        return _Page(lines, replace(at, next=place), incomplete)
    return _Page(lines, replace(at, next=following))


def _place(session: Session, tag: str, seq: int) -> int | None:
    found = execute(session.connection(), "SELECT idx FROM records WHERE agent_tag = ? AND seq = ?", (tag, seq))
    return found.scalar()


def line(row: RecordRow, disclosure: Disclosure) -> bytes:
    """A record as a line of JSON; docs/exporting.md names its members.

    A group that the record never had is left out; one that is not shown, or was erased, is named in `withheld`.
    """
    stored = disclosure.of(row.groups)
    return orjson.dumps(
        {
            "index": row.idx,
            "at_ms": at_ms(row.at),
            "kind": row.kind,
            "agent": disclosure.column("agent", row.agent),
            "agent_tag": row.agent_tag,
            "seq": row.seq,
            "outcome": disclosure.column("outcome", row.outcome),
            "model": disclosure.column("model", row.model),
            "request_id": disclosure.column("request_id", row.request_id),
            "groups": {name: orjson.Fragment(content) for name, (_, content) in stored.items() if content},
            "withheld": [name for name in record.GROUPS if name not in stored],
            "entry": note.encode_base64(row.entry),
        },
        option=orjson.OPT_APPEND_NEWLINE,
    )


def _told(at: Cursor, **more: object) -> bytes:
    return orjson.dumps({"export": {"cursor": str(at), **more}}, option=orjson.OPT_APPEND_NEWLINE)
