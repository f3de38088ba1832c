"""The trail: search it, read a record, take away the bundle that proves it."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from broker.audit import export, ranges, saved, schema, trail
from broker.audit.events import Kind
from broker.errors import InvalidRequest
from broker.web.api.access import Auditor, TheBroker
from broker.web.api.reading import TheReading
from broker.web.api.streams import Bounded, Room

EXPORTS_AT_ONCE, EXPORTS_EACH = 8, 4
_LAST_PAGE_S = 60.0
"""Seconds that whoever reads an export may take for the page that was read last before the token ended."""

router = APIRouter(tags=["audit"], prefix="/audit")

_MAX = 2**63 - 1
Index = Annotated[int, Path(ge=0, le=_MAX)]
Milliseconds = Annotated[int | None, Query(ge=0, le=_MAX)]


def _filters(
    agent: str = "",
    owner: str = "",
    human: str = "",
    kind: Kind | None = None,
    action: str = "",
    outcome: str = "",
    model: str = "",
    policy: str = "",
    request_id: str = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
) -> trail.Query:
    return trail.Query(
        agent=agent, owner=owner, human=human, kind=str(kind or ""), action=action, outcome=outcome, model=model,
        policy=policy, request_id=request_id, since_ms=since_ms, until_ms=until_ms,
    )  # fmt: skip


Filters = Annotated[trail.Query, Depends(_filters)]


@router.get("/records")
async def search(
    broker: TheBroker,
    reading: TheReading,
    filters: Filters,
    after: Annotated[int | None, Query(ge=-1, le=_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=trail.MAX_PAGE)] = 50,
    oldest_first: bool = False,
    saved_as: Annotated[str, Query(alias="saved")] = "",
    search: Annotated[int | None, Query(ge=0, le=_MAX)] = None,
) -> dict[str, Any]:
    """Records, newest first, a page at a time: pass the last index of a page as `after`.

    `saved` runs a saved query; what is given beside it goes before what is saved. The answer's `search` is the record
    of this search. Pass it on with each further page, which then leaves no record of its own, and shows nothing newer.
    """
    asked = replace(filters, oldest_first=oldest_first)
    if search is not None and after is None:
        raise InvalidRequest("`search` belongs to a further page, which says with `after` where it goes on.")

    if saved_as:
        asked = await broker.read(lambda session: saved.refined(session, saved_as, asked, by=reading.by))
    page = replace(asked, after=after, limit=limit, below=search)
    if search is not None:
        await reading.check_continues(search, page)
    await reading.check_asked(asked)
    found = await broker.read(lambda session: trail.search(session, page, reading.disclosure))
    following = found[-1]["index"] if len(found) == limit else None
    if search is None:
        search = await reading.note("search", query=asked, shown=len(found), following=following)
    return {"records": found, "next": following, "search": search}


@router.get("/records/{index}")
async def show(broker: TheBroker, reading: TheReading, index: Index) -> dict[str, Any]:
    """One record with its groups and its exact bytes."""
    found = await broker.read(lambda session: trail.read(session, index, reading.disclosure))
    await reading.note("record", {"index": index}, shown=1)
    return found


@router.get("/records/{index}/bundle")
async def bundle(broker: TheBroker, reading: TheReading, index: Index) -> Response:
    """Everything that proves the record without us, as a file for `broker audit verify`."""
    data = await broker.read(lambda session: trail.bundle(session, broker.tree, index, reading.disclosure))
    await reading.note("bundle", {"index": index}, shown=1)
    return Response(data, media_type="application/json")


@router.get("/export")
async def export_records(
    broker: TheBroker, reading: TheReading, request: Request, query: Filters, after: str = ""
) -> Bounded:
    """Records in order as JSON Lines, up to the newest checkpoint; pass the last cursor as `after` to go on.

    A line with the member `export` is no record: its cursor covers all lines before it, and the last one says with
    `more` whether to ask again. As fast as it is read, and no faster.
    """
    room: Room = request.app.state.export_room
    room.take(reading.by.id)
    try:
        await reading.check_asked(query)
        start = await broker.read(lambda _session: export.begin(broker.tree, after))
        if start.next < start.size:
            of = {"range": [start.next, start.size]}
            await reading.note("export", of, query=query, shown=start.size - start.next)
    except BaseException:
        room.give_back(reading.by.id)
        raise
    lines = export.stream(reading.read, query, start, reading.disclosure)
    within_s = broker.rules.lifetime_s + _LAST_PAGE_S
    return Bounded(lines, "application/x-ndjson", room, reading.by.id, within_s=within_s)


@router.get("/entries")
async def entries(
    broker: TheBroker,
    reading: TheReading,
    start: Annotated[int, Query(ge=0, le=_MAX)],
    end: Annotated[int, Query(ge=0, le=_MAX)],
) -> Response:
    """Records [start, end) with what proves each in the tree: what there is, and as many as one answer takes."""
    found = await broker.read(lambda session: ranges.read_range(session, start, end, reading.disclosure))
    await reading.note("entries", {"range": [start, start + len(found)]}, shown=len(found))
    return Response(orjson.dumps({"entries": found}), media_type="application/json")


@router.get("/consistency")
async def consistency(broker: TheBroker, _me: Auditor, old: int, new: int) -> dict[str, Any]:
    """The proof that the log of `new` entries begins with the log of `old` (RFC 6962 §2.1.2)."""
    hashes = await broker.read(lambda _session: broker.tree.consistency(old, new))
    return {"old": old, "new": new, "hashes": [item.hex() for item in hashes]}


@router.get("/schema")
async def schemas(_me: Auditor, kind: Kind | None = None) -> dict[str, Any]:
    """What records hold, as a JSON Schema for each kind, and the digest of all that `BrokerStarted` names."""
    kinds = list(schema.SCHEMAS) if kind is None else [kind]
    return {"digest": schema.digest(), "kinds": {str(each): schema.document(each) for each in sorted(kinds)}}
