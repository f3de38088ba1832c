"""The broker's credentials for httpx clients, blocking and async."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from broker.client.flow import Credentials


class HttpxBrokerAuth(Credentials, httpx.Auth):
    """Authenticates every request of an httpx client to the broker; see `Credentials` for the arguments.

    Each request gets the current token and a fresh proof in place of whatever Authorization header it had.
    One object may serve many clients, threads and event loops (asyncio) at once. A request whose body is a
    stream is sent once only: an answer that asks for a repetition is then the caller's.

    Raises, from the request that needs a token: `ClientError` and its kinds; where no connection to the
    broker is to be had, httpx's own errors.
    """

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by the client."""
        yield from self._run(request, httpx.Request, replayable=_is_replayable(request))

    def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Called by the client."""
        return self._arun(request, httpx.Request, replayable=_is_replayable(request))


def _is_replayable(request: httpx.Request) -> bool:
    try:
        request.content  # noqa: B018  there only when the whole body is in memory
    except httpx.RequestNotRead:
        return False
    return True
