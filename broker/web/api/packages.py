"""Evidence packages over HTTP: a ZIP file that is written while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from fastapi import APIRouter, Query, Request

from broker.audit import package, trail
from broker.policy import active
from broker.web.api.access import TheBroker
from broker.web.api.audit import Milliseconds
from broker.web.api.reading import TheReading
from broker.web.api.streams import Bounded, Room

AT_ONCE = 2

router = APIRouter(tags=["audit"], prefix="/audit")


class PackageRoom(Room):
    """The room for packages, and the threads that write them: nobody else waits for readers of packages."""

    def __init__(self) -> None:
        super().__init__(AT_ONCE, 1, "evidence packages")
        self._threads = ThreadPoolExecutor(AT_ONCE, "package")

    async def pieces(self, written: Iterator[bytes], still: Callable[[], Awaitable[None]]) -> AsyncIterator[bytes]:
        """The pieces of a package, each when the one before was taken, and only while `still` does not refuse.

        Raises:
            Refused, Unavailable: what `still` or `written` raise; what came before is no whole package.
        """
        loop = asyncio.get_running_loop()
        while (piece := await loop.run_in_executor(self._threads, next, written, b"")) != b"":
            await still()
            yield piece


@router.get("/package")
async def evidence_package(
    broker: TheBroker,
    reading: TheReading,
    request: Request,
    agent: Annotated[str, Query()] = "",
    since_ms: Milliseconds = None,
    until_ms: Milliseconds = None,
) -> Bounded:
    """An evidence package, a ZIP file written while it is read: see `broker.audit.package`.

    It breaks off, and is no whole ZIP file, when the token ends or the operator may not read the trail any more.
    """
    room: PackageRoom = request.app.state.package_room
    room.take(reading.by.id)
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
        room.give_back(reading.by.id)
        raise
    pieces = room.pieces(package.written(found, broker.engine, broker.tree, active.texts), reading.check_still)
    # no token lives longer
    return Bounded(pieces, "application/zip", room, reading.by.id, within_s=broker.rules.lifetime_s)
