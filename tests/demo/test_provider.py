"""The stand-in for a provider: an OpenAI client cannot tell it from the wire format it knows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import httpx2
import openai
import pytest

from broker.demo.provider import MODELS, Behaviour, StandInProvider
from broker.entropy import system_entropy
from tests.fakes import FakeClock

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
async def provider() -> AsyncIterator[StandInProvider]:
    """A provider that listens and behaves."""
    async with StandInProvider(clock=FakeClock(), entropy=system_entropy) as listening:
        yield listening


@pytest.fixture
async def client(provider: StandInProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    """An OpenAI client with the provider's key."""
    async with openai.AsyncOpenAI(base_url=provider.base_url, api_key=provider.key, max_retries=0) as made:
        yield made


async def _post(provider: StandInProvider, body: Mapping[str, object], key: str | None = None) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key or provider.key}"}
    async with httpx2.AsyncClient() as http:
        return await http.post(f"{provider.base_url}/chat/completions", json=body, headers=headers)


async def test_a_completion_is_given_whole(provider: StandInProvider, client: openai.AsyncOpenAI) -> None:
    """Without streaming the answer is one JSON body, with its usage."""
    answer = await client.chat.completions.create(
        model=MODELS[0], messages=[{"role": "user", "content": "one two three"}]
    )
    assert answer.choices[0].message.content == "one two three "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.created == FakeClock().now()
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)


async def test_a_limit_on_tokens_cuts_the_answer(client: openai.AsyncOpenAI) -> None:
    """`max_tokens` is kept to, so that budgets can be tried."""
    answer = await client.chat.completions.create(
        model=MODELS[0], messages=[{"role": "user", "content": "one two three"}], max_tokens=2
    )
    assert answer.choices[0].message.content == "one two "
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize("include_usage", [True, False])
async def test_a_stream_comes_in_chunks(client: openai.AsyncOpenAI, include_usage: bool) -> None:
    """A stream has one chunk for each word, and its usage at the end if asked for and only then."""
    stream = await client.chat.completions.create(
        model=MODELS[1],
        messages=[{"role": "user", "content": "one two three"}],
        stream=True,
        stream_options={"include_usage": include_usage},
    )
    chunks = [chunk async for chunk in stream]
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert words == ["one ", "two ", "three "]
    usages = [chunk.usage.total_tokens for chunk in chunks if chunk.usage is not None]
    assert usages == ([6] if include_usage else [])


async def test_a_stream_is_not_held_back() -> None:
    """The first event arrives while the next one is still to be made; the wire ends with [DONE]."""
    slow = StandInProvider(clock=FakeClock(), entropy=system_entropy, behaviour="slow", slow_pause_s=60)
    body = {"model": MODELS[0], "messages": MESSAGES, "stream": True}
    async with (
        slow as provider,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {provider.key}"}) as http,
    ):
        async with http.stream("POST", f"{provider.base_url}/chat/completions", json=body) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert (await anext(answer.aiter_bytes())).startswith(b"data: {")
        await asyncio.wait_for(provider.left.wait(), 5)
    async with StandInProvider(clock=FakeClock(), entropy=system_entropy) as quick:
        assert (await _post(quick, body)).text.endswith("data: [DONE]\n\n")


async def test_only_its_own_key_is_taken(provider: StandInProvider) -> None:
    """Another key is answered with 401 in the shape OpenAI clients know, and recorded all the same."""
    answer = await _post(provider, {"model": MODELS[0], "messages": MESSAGES}, key="sk-other")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert provider.received[-1].headers["authorization"] == "Bearer sk-other"


async def test_it_keeps_what_it_received(provider: StandInProvider) -> None:
    """Method, path, headers and the exact bytes of the body are there to look at."""
    body = {"model": MODELS[0], "messages": MESSAGES}
    await _post(provider, body)
    (received,) = provider.received
    assert (received.method, received.path) == ("POST", "/v1/chat/completions")
    assert received.headers["content-type"] == "application/json"
    assert json.loads(received.body) == body


async def test_it_lists_its_models(client: openai.AsyncOpenAI) -> None:
    """The list holds what it answers for."""
    assert set(MODELS) <= {model.id async for model in client.models.list()}


async def test_an_unknown_model_is_not_found(client: openai.AsyncOpenAI) -> None:
    """A model it does not list is a 404."""
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt-none", messages=[{"role": "user", "content": "x"}])


@pytest.mark.parametrize("body", [{"model": MODELS[0]}, {"model": MODELS[0], "messages": []}, {}])
async def test_a_request_without_messages_is_bad(provider: StandInProvider, body: dict[str, object]) -> None:
    """A malformed request is a 400 with an error object."""
    answer = await _post(provider, body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(("behaviour", "status"), [("fail-429", 429), ("fail-500", 500)])
@pytest.mark.parametrize("by_model", [True, False])
async def test_errors_on_demand(behaviour: Behaviour, status: int, by_model: bool) -> None:
    """By the model's name or by construction, every call fails with that status and a JSON body."""
    chosen = None if by_model else behaviour
    async with StandInProvider(clock=FakeClock(), entropy=system_entropy, behaviour=chosen) as provider:
        answer = await _post(provider, {"model": behaviour if by_model else MODELS[0], "messages": MESSAGES})
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) == (status == 429)


@pytest.mark.parametrize("stream", [True, False])
async def test_it_disconnects_on_demand(provider: StandInProvider, stream: bool) -> None:
    """The connection breaks before the end, in the middle of a stream or before an answer."""
    with pytest.raises((httpx2.RemoteProtocolError, httpx2.ReadError)):
        await _post(provider, {"model": "disconnect", "messages": MESSAGES, "stream": stream})


async def test_it_sends_a_huge_chunk_on_demand(provider: StandInProvider) -> None:
    """One event of more than a mebibyte."""
    answer = await _post(provider, {"model": "huge-chunk", "messages": MESSAGES, "stream": True})
    assert max(map(len, answer.text.split("\n\n"))) > 1024 * 1024


async def test_it_notices_a_client_that_leaves(provider: StandInProvider) -> None:
    """A client that goes away in the middle is seen at once."""
    asking = asyncio.create_task(_post(provider, {"model": "slow", "messages": MESSAGES}))
    await asyncio.wait_for(provider.arrived.wait(), 10)
    assert not provider.left.is_set()
    asking.cancel()
    await asyncio.wait_for(provider.left.wait(), 10)


async def test_it_holds_a_stream_back_on_demand() -> None:
    """The first word is here while the rest waits; it goes on once it is let."""
    holding = StandInProvider(clock=FakeClock(), entropy=system_entropy, hold=True)
    body = {"model": MODELS[0], "messages": MESSAGES, "stream": True}
    async with (
        holding as provider,
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {provider.key}"}) as http,
        http.stream("POST", f"{provider.base_url}/chat/completions", json=body) as answer,
    ):
        read = b""
        async for chunk in answer.aiter_bytes():
            read += chunk
            if b"one " in read and b"two " not in read:
                assert provider.holding
                provider.holding = False
        assert b"three " in read


async def test_it_leaks_its_key_on_demand(provider: StandInProvider) -> None:
    """The answer is the key, for tests of who gets to see it."""
    answer = await _post(provider, {"model": "leak-key", "messages": MESSAGES})
    assert answer.json()["choices"][0]["message"]["content"] == provider.key
