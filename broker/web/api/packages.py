"""Evidence packages over HTTP: a ZIP file that is written while it is read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from broker.audit import package, trail
from broker.audit.package_room import PackageRoom
from broker.errors import BrokerError
from broker.policy import active
from broker.web.api.access import TheBroker
from broker.web.api.audit import Milliseconds
from broker.web.api.reading import TheReading

router = APIRouter(tags=["audit"], prefix="/audit")

log = logging.getLogger(__name__)


@router.get("/package")
async def evidence_package(
    broker: TheBroker,
    reading: TheReading,
    request: Request,
    agent: Annotated[str, Query()] = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
) -> StreamingResponse:
    """An evidence package, a ZIP file written while it is read: see `broker.audit.package`.

    It breaks off, and is no whole ZIP file, when the token ends or the operator may not read the trail any more.
    """
    room: PackageRoom = request.app.state.package_room
    room.take()
    try:
        scope, now = package.Scope(since_ms, until_ms, agent), broker.clock.now()
        tag = broker.audit.tag(agent) if agent else ""
        asked = trail.Query(agent=agent, since_ms=since_ms, until_ms=until_ms)
        await reading.check_asked(asked)
        found = await broker.read(
            lambda session: package.begin(session, broker.tree, scope, tag, reading.disclosure, now=now)
        )
        await reading.note("package", query=asked, shown=found.end - found.start)
    except BaseException:
        room.give_back()
        raise
    pieces = room.pieces(package.written(found, broker.engine, broker.tree, active.texts), reading.check_still)
    return Bounded(pieces, room, within_s=broker.rules.lifetime_s)  # no token lives longer


class Bounded(StreamingResponse):
    """A package as it is written. It ends at the last piece, or the connection is cut, so that it never looks whole.

    Args:
        pieces: the package's.
        room: its room was taken, and is given back.
        within_s: seconds after which it is cut, however slowly it is read.
    """

    def __init__(self, pieces: AsyncIterator[bytes], room: PackageRoom, *, within_s: float) -> None:
        super().__init__(pieces, media_type="application/zip")
        self._room = room
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._room.give_back()

    async def stream_response(self, send: Send) -> None:
        """Sends it; a refusal on the way leaves the answer without its end, and the server cuts the connection then."""
        try:
            async with asyncio.timeout(self._within_s):
                await super().stream_response(send)
        except (BrokerError, TimeoutError) as error:
            log.warning("a package was cut short: %s", getattr(error, "detail", "it took too long"))
