"""A stand-in's listening side: an HTTP server on loopback, on a port of the system's choice."""

from __future__ import annotations

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
