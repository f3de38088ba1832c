"""The load: a closed loop of callers, each on a connection of its own that is kept, sending what was signed before.

A caller sends its next request when the answer to the last one is whole. The requests are bytes, and answers are looked
at only as far as to know that they succeeded and where they end, so that the generator takes little of the machine that
it shares with what it measures.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_END_OF_CHUNKS = b"0\r\n\r\n"
_SHOWN_BYTES = 600


class LoadFailed(Exception):
    """An answer that is no success, or none at all: the run is worth nothing."""


@dataclass(slots=True)
class Driven:
    """What a run of requests came to.

    Attributes:
        wall_s: from the first request to the last answer.
        latencies_s: of each request, in the order of the answers.
        pieces: how many reads the answers came in.
        bodies: the whole answers by the request's place, when they were to be kept.
    """

    wall_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    pieces: int = 0
    bodies: dict[int, bytes] = field(default_factory=dict)

    @property
    def per_s(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.wall_s


class Callers:
    """Open connections to one port. Made by `callers`."""

    def __init__(self) -> None:
        self.connections: list[_Connection] = []

    async def drive(self, requests: Sequence[bytes], *, keep: bool = False) -> Driven:
        """Sends every request once, each on whichever connection is free first.

        Raises:
            LoadFailed: an answer was no 200, or a connection was lost.
        """
        driven = Driven()
        waiting = iter(enumerate(requests))
        collecting = gc.isenabled()
        gc.disable()
        try:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for connection in self.connections:
                    group.create_task(connection.run(waiting, driven, keep))
            driven.wall_s = time.perf_counter() - begun
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            if collecting:
                gc.enable()
        assert len(driven.latencies_s) == len(requests)
        return driven


@asynccontextmanager
async def callers(port: int, count: int) -> AsyncIterator[Callers]:
    """Connects so many callers to a port of loopback."""
    line = Callers()
    try:
        for _ in range(count):
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, "127.0.0.1", port)
            line.connections.append(connection)
        yield line
    finally:
        for connection in line.connections:
            connection.transport.abort()
        await asyncio.sleep(0)  # they close in the loop's next turn


async def drive(port: int, requests: Sequence[bytes], count: int, *, keep: bool = False) -> Driven:
    """Connects, sends every request once, and lets the connections go."""
    async with callers(port, count) as line:
        return await line.drive(requests, keep=keep)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self) -> None:
        self._ended: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is none of asyncio's
        self.transport = transport

    async def run(self, waiting: Iterator[tuple[int, bytes]], driven: Driven, keep: bool) -> None:
        """Takes requests until none is left. Answers start the next request from the callback: no task is woken."""
        self._waiting, self._driven, self._keep = waiting, driven, keep
        self._ended = asyncio.get_running_loop().create_future()
        self._next()
        await self._ended

    def _next(self) -> None:
        following = next(self._waiting, None)
        if following is None:
            self._end(None)
            return
        self._place, request = following
        self._answer = b""
        self._left = -1
        self._begun = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._driven.pieces += 1
        self._answer += data
        if self._left < 0 and not self._head():
            return
        if len(self._answer) >= self._left if self._left else self._answer.endswith(_END_OF_CHUNKS):
            self._driven.latencies_s.append(time.perf_counter() - self._begun)
            if self._keep:
                self._driven.bodies[self._place] = self._answer
            self._next()

    def _head(self) -> bool:
        """Whether the head is there and says 200; `_left` is then the answer's whole length, 0 when it is chunked."""
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        if not self._answer.startswith(b"HTTP/1.1 200 "):
            self._end(LoadFailed(f"answered with {self._answer[:_SHOWN_BYTES].decode('latin-1')!r}"))
            return False
        _, found, length = self._answer[:end].lower().partition(b"content-length:")
        self._left = end + 4 + int(length.partition(b"\r\n")[0]) if found else 0
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(LoadFailed(f"the connection was lost: {exc}"))

    def _end(self, failure: LoadFailed | None) -> None:
        if self._ended is None or self._ended.done():
            return
        if failure is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(failure)
