"""The OpenAI SDK, unchanged, through the broker's credentials."""

from __future__ import annotations

import asyncio

import httpx2
import openai
import pytest

from broker.client import BrokerAuth, TokenRefused
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock


def _auth(broker: StandInBroker, clock: FakeClock) -> BrokerAuth:
    return BrokerAuth(broker.origin, lambda: EVIDENCE, clock=clock)


async def test_the_async_sdk_works_whole_and_streamed(broker: StandInBroker, clock: FakeClock) -> None:
    """AsyncOpenAI with an api_key that means nothing: one token, both shapes of answer, no bearer anywhere."""
    http = httpx2.AsyncClient(auth=_auth(broker, clock))
    async with openai.AsyncOpenAI(base_url=f"{broker.origin}/openai/v1", api_key="unused", http_client=http) as client:
        whole = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert whole.choices[0].message.content == "one two"
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["one ", "two"]
    assert len(broker.tokens) == 1
    assert all("unused" not in call.headers["authorization"] for call in broker.calls)


async def test_the_blocking_sdk_works_whole_and_streamed(broker: StandInBroker, clock: FakeClock) -> None:
    """OpenAI, in threads at once: the same."""
    http = httpx2.Client(auth=_auth(broker, clock))

    def converse(client: openai.OpenAI) -> tuple[str | None, list[str | None]]:
        whole = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        return whole.choices[0].message.content, [chunk.choices[0].delta.content for chunk in stream]

    with openai.OpenAI(base_url=f"{broker.origin}/openai/v1", api_key="unused", http_client=http) as client:
        outcomes = await asyncio.gather(*(asyncio.to_thread(converse, client) for _ in range(4)))
    assert outcomes == [("one two", ["one ", "two"])] * 4
    assert len(broker.tokens) == 1


async def test_a_refused_token_reaches_the_user_of_the_sdk(broker: StandInBroker, clock: FakeClock) -> None:
    """The SDK neither hides the refusal nor asks again for what was refused."""
    broker.faults.token.append((400, {"error": "invalid_target", "error_description": "not in any policy"}))
    http = httpx2.AsyncClient(auth=_auth(broker, clock))
    async with openai.AsyncOpenAI(base_url=f"{broker.origin}/openai/v1", api_key="unused", http_client=http) as client:
        with pytest.raises(TokenRefused, match="not in any policy"):
            await client.models.list()
    assert len(broker.tokens) == 1
