"""The trail: search it, read a record, take away the bundle that proves it."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import StreamingResponse

from broker.audit import export, package, ranges, trail
from broker.audit.events import Kind
from broker.policy import active
from broker.web.api.access import Auditor, TheBroker

router = APIRouter(tags=["audit"], prefix="/audit")

_MAX = 2**63 - 1
Index = Annotated[int, Path(ge=0, le=_MAX)]
Milliseconds = Annotated[int | None, Query(ge=0, le=_MAX)]


@router.get("/records")
async def search(
    broker: TheBroker,
    _me: Auditor,
    agent: str = "",
    kind: Kind | None = None,
    outcome: str = "",
    model: str = "",
    request_id: str = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
    after: Annotated[int | None, Query(ge=-1, le=_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=trail.MAX_PAGE)] = 50,
    oldest_first: bool = False,
) -> dict[str, Any]:
    """Records, newest first, a page at a time: pass the last index of a page as `after`."""
    query = trail.Query(agent, kind or "", outcome, model, request_id, since_ms, until_ms, after, limit, oldest_first)
    found = await broker.read(lambda session: trail.search(session, query))
    return {"records": found, "next": found[-1]["index"] if len(found) == limit else None}


@router.get("/records/{index}")
async def show(broker: TheBroker, _me: Auditor, index: Index) -> dict[str, Any]:
    """One record with its groups and its exact bytes."""
    return await broker.read(lambda session: trail.read(session, index))


@router.get("/records/{index}/bundle")
async def bundle(broker: TheBroker, _me: Auditor, index: Index) -> Response:
    """Everything that proves the record without us, as a file for `broker audit verify`."""
    data = await broker.read(lambda session: trail.bundle(session, broker.tree, index))
    return Response(data, media_type="application/json")


@router.get("/export")
async def export_records(
    broker: TheBroker,
    _me: Auditor,
    agent: str = "",
    kind: Kind | None = None,
    outcome: str = "",
    model: str = "",
    request_id: str = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
    after: str = "",
) -> StreamingResponse:
    """Records in order as JSON Lines, up to the newest checkpoint; pass the last cursor as `after` to go on.

    A line with the member `export` is no record: its cursor covers all lines before it, and the last one says with
    `more` whether to ask again. As fast as it is read, and no faster.
    """
    query = trail.Query(agent, kind or "", outcome, model, request_id, since_ms, until_ms)
    start = await broker.read(lambda _session: export.begin(broker.tree, after))
    return StreamingResponse(export.stream(broker.read, query, start), media_type="application/x-ndjson")


@router.get("/entries")
async def entries(
    broker: TheBroker,
    _me: Auditor,
    start: Annotated[int, Query(ge=0, le=_MAX)],
    end: Annotated[int, Query(ge=0, le=_MAX)],
) -> Response:
    """Records [start, end) with what proves each in the tree: what there is, and as many as one answer takes."""
    found = await broker.read(lambda session: orjson.dumps({"entries": ranges.read_range(session, start, end)}))
    return Response(found, media_type="application/json")


@router.get("/package")
async def evidence_package(
    broker: TheBroker,
    _me: Auditor,
    agent: str = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
) -> StreamingResponse:
    """An evidence package, a ZIP file written while it is read: see `broker.audit.package`."""
    scope, now = package.Scope(since_ms, until_ms, agent), broker.clock.now()
    tag = broker.audit.tag(agent) if agent else ""
    found = await broker.read(lambda session: package.begin(session, broker.tree, scope, tag, now=now))
    pieces = package.written(found, broker.engine, broker.tree, active.texts)
    return StreamingResponse(pieces, media_type="application/zip")


@router.get("/consistency")
async def consistency(broker: TheBroker, _me: Auditor, old: int, new: int) -> dict[str, Any]:
    """The proof that the log of `new` entries begins with the log of `old` (RFC 6962 §2.1.2)."""
    hashes = await broker.read(lambda _session: broker.tree.consistency(old, new))
    return {"old": old, "new": new, "hashes": [item.hex() for item in hashes]}
