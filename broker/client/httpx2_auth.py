"""The broker's credentials for httpx2 clients, blocking and async."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx2

from broker.client.flow import Credentials


class BrokerAuth(Credentials, httpx2.Auth):
    """Authenticates every request of an httpx2 client to the broker; see `Credentials` for the arguments.

    Each request gets the current token and a fresh proof in place of whatever Authorization header it had.
    One object may serve many clients, threads and event loops (asyncio) at once. A request whose body is a
    stream is sent once only: an answer that asks for a repetition is then the caller's.

    Raises, from the request that needs a token: `ClientError` and its kinds; where no connection to the
    broker is to be had, httpx2's own errors.
    """

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Called by the client."""
        yield from self._run(request, httpx2.Request, replayable=_is_replayable(request))

    def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Called by the client."""
        return self._arun(request, httpx2.Request, replayable=_is_replayable(request))


def _is_replayable(request: httpx2.Request) -> bool:
    try:
        request.content  # noqa: B018  there only when the whole body is in memory
    except httpx2.RequestNotRead:
        return False
    return True
