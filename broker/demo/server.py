"""A stand-in's listening side: an HTTP server on loopback, on a port of the system's choice."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from types import TracebackType
from typing import Self

from aiohttp import web


class LoopbackServer:
    """Serves routes on 127.0.0.1 between `async with` and its end.

    Args:
        routes: what is served.
    """

    def __init__(self, routes: list[web.RouteDef]) -> None:
        self._routes = routes
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def origin(self) -> str:
        """Where it listens, such as `http://127.0.0.1:40123`; known once it listens."""
        assert self._port, "it listens inside `async with` only"
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.add_routes(self._routes)
        # A handler is cancelled when its client leaves, so that a stand-in can tell that it was left.
        self._runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        self._port = 0


@contextmanager
def in_thread(*servers: LoopbackServer) -> Iterator[None]:
    """Serves on an event loop in a thread of its own, so that whoever plays against the servers may block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="stand-ins", daemon=True)
    thread.start()
    listening = AsyncExitStack()

    async def listen() -> None:
        for server in servers:
            await listening.enter_async_context(server)

    try:
        asyncio.run_coroutine_threadsafe(listen(), loop).result()
        yield
    finally:
        asyncio.run_coroutine_threadsafe(listening.aclose(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def free_port() -> int:
    """A port on loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
