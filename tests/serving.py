"""Both ends of HTTP as most tests want them: a client that reads no certificates, a server that stops at once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import httpx2
import uvicorn

_TLS = ssl.create_default_context()


def http_client(**arguments: Any) -> httpx2.AsyncClient:
    """A client; the machine's certificates, which take long to read, are read once for all."""
    return httpx2.AsyncClient(verify=_TLS, **arguments)


class PromptServer(uvicorn.Server):
    """Uvicorn's server, told to stop by `stop()`: no tick and no pause lie between that and the end of the broker."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Ends it when what is under way is answered."""
        self._stopped.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn ends the process when the start fails, and with it every other test."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise AssertionError("the broker did not start; see the log") from None

    async def main_loop(self) -> None:
        """Sets the headers that each answer has, and waits."""
        await self.on_tick(0)
        await self._stopped.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What uvicorn does, in its order."""
        assert not sockets
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.002)
        for server in self.servers:
            await server.wait_closed()
        await self.lifespan.shutdown()
