"""A stand-in broker, and one caller for each kind of HTTP client that the SDK works with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import httpx2
import pytest

from broker.client import BrokerAuth, HttpxBrokerAuth
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock

Send = Callable[..., Any]


class Caller:
    """Sends requests with one client; a client that blocks does so in threads.

    Args:
        client: of either library and either kind.
        auth: what it was made with.
    """

    def __init__(self, client: Any, auth: Any) -> None:
        self.client = client
        self.auth = auth
        self.blocks = isinstance(client, httpx.Client | httpx2.Client)

    async def send(self, url: str, method: str = "POST", **options: Any) -> Any:
        """Sends one request and gives its response."""
        if self.blocks:
            return await asyncio.to_thread(self.client.request, method, url, **options)
        return await self.client.request(method, url, **options)

    async def close(self) -> None:
        """Closes the client."""
        if self.blocks:
            self.client.close()
        else:
            await self.client.aclose()


KINDS: dict[str, tuple[Any, Any]] = {
    "httpx2": (httpx2.Client, BrokerAuth),
    "httpx2-async": (httpx2.AsyncClient, BrokerAuth),
    "httpx": (httpx.Client, HttpxBrokerAuth),
    "httpx-async": (httpx.AsyncClient, HttpxBrokerAuth),
}

MakeCaller = Callable[..., Caller]


@pytest.fixture
def clock() -> FakeClock:
    """The time of the client and of the stand-in."""
    return FakeClock()


@pytest.fixture
async def broker(clock: FakeClock) -> AsyncIterator[StandInBroker]:
    """A stand-in broker that listens."""
    async with StandInBroker(clock) as listening:
        yield listening


@pytest.fixture
async def other(clock: FakeClock) -> AsyncIterator[StandInBroker]:
    """Another one, which nobody should send anything to."""
    async with StandInBroker(clock) as listening:
        yield listening


@pytest.fixture(params=list(KINDS))
async def caller(request: pytest.FixtureRequest, broker: StandInBroker, clock: FakeClock) -> AsyncIterator[MakeCaller]:
    """Makes callers of each kind; `client_options` go to the client and the rest to the auth."""
    made: list[Caller] = []
    client_type, auth_type = KINDS[request.param]

    def make(evidence: Any = lambda: EVIDENCE, *, client_options: Any = None, **options: Any) -> Caller:
        auth = auth_type(broker.origin, evidence, clock=clock, **options)
        made.append(Caller(client_type(auth=auth, **(client_options or {})), auth))
        return made[-1]

    yield make
    for one in made:
        await one.close()
