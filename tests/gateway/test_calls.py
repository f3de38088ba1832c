"""A model call over real HTTP: what crosses in each direction, and what stops here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import openai
import pytest

from broker.client import BrokerAuth
from broker.settings import Gateway
from tests.build import MODEL, OTHER_MODEL, Running, running
from tests.gateway.world import CHAT, MESSAGES, MODELS, NARROW, RULES, ByHand, Part, by_hand, last_records, records

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSING = [
    b'{"model":"stand-in-small","messages":[{"role":"user","content":"hi"}]}',
    b' \t\r\n{ "model" :\t"stand-in-small" ,\n"messages":[ {"content":"\\u0068\\u00ef","role":"user"} ] }  \n',
    b'{"x_future_field":{"a":[1,{"b":null}]},"model":"stand-in-small","messages":[{"role":"user","content":"a"}]}',
    b'{"seed":123456789012345678901234567890,"model":"stand-in-small","messages":[{"content":"a","role":"user"}]}',
    b'{"temperature":1.0000000000000000001e-1,"top_p":1E0,"model":"stand-in-small","messages":[{"role":"user"}]}',
    '{"model":"stand-in-small","messages":[{"role":"user","content":"\N{SNOWMAN} \\ud83d\\ude00"}]}'.encode(),
    b'{"model":"stand-in-\\u0073mall","messages":[{"role":"user","content":"the name spelt with an escape"}]}',
]


async def test_the_plain_async_sdk_works(run: Running) -> None:
    """The unmodified async client of the format lists models, and calls one streamed and not."""
    auth = BrokerAuth(run.url, run.evidence, clock=run.clock)
    http = httpx2.AsyncClient(auth=auth)
    async with openai.AsyncOpenAI(base_url=f"{run.url}/openai/v1", api_key="none", http_client=http) as client:
        assert MODEL in {model.id async for model in client.models.list()}
        whole = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a b"}])
        assert whole.choices[0].message.content == "a b "
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a b"}], stream=True
        )
        assert "".join([c.choices[0].delta.content or "" async for c in stream if c.choices]) == "a b "


async def test_the_plain_blocking_sdk_works(run: Running) -> None:
    """The unmodified blocking client does the same."""

    def calls() -> tuple[set[str], str | None, str]:
        auth = BrokerAuth(run.url, run.evidence, clock=run.clock)
        http = httpx2.Client(auth=auth)
        with openai.OpenAI(base_url=f"{run.url}/openai/v1", api_key="none", http_client=http) as client:
            listed = {model.id for model in client.models.list()}
            whole = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "a b"}])
            stream = client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "a b"}], stream=True
            )
            text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
            return listed, whole.choices[0].message.content, text

    listed, whole, streamed = await asyncio.to_thread(calls)
    assert MODEL in listed
    assert (whole, streamed) == ("a b ", "a b ")


@pytest.mark.parametrize("body", PASSING)
async def test_the_body_passes_unchanged(caller: ByHand, body: bytes) -> None:
    """The provider receives the caller's bytes: white space, unknown members, escapes and long numbers included."""
    answer = await caller.post(body)
    assert answer.status_code == 200, answer.text
    assert caller.run.provider.received[-1].body == body


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"stand-in-small","model":"stand-in-large","messages":[]}',
        b'{"model":"stand-in-small","mod\\u0065l":"stand-in-large","messages":[]}',
        b'{"model":"stand-in-small","messages":[{"role":"user","role":"system"}]}',
        b'{"model":"stand-in-small","Model":"stand-in-large","messages":[]}',
        '{"model":"stand-in-small","\N{LATIN SMALL LETTER LONG S}tream":true,"messages":[]}'.encode(),
        b'{"stream":false,"model":"stand-in-small","STREAM":true,"messages":[]}',
        b'\xef\xbb\xbf{"model":"stand-in-small","messages":[]}',
        '{"model":"stand-in-small","messages":[]}'.encode("utf-16"),
        b'{"model":"stand-in-small","messages":[{"content":"\xff"}]}',
        b'{"model":"stand-in-small","messages":[],"x":NaN}',
        b'{"model":"stand-in-small","messages":[]} {"model":"stand-in-large"}',
        b'{"model":"stand-in-small","messages":' + b"[" * 200 + b"]" * 200 + b"}",
        b'[{"model":"stand-in-small"}]',
        b'{"model":["stand-in-small"],"messages":[]}',
        b'{"model":"","messages":[]}',
        b'{"messages":[]}',
        b'{"model":"stand-in-small","stream":"true","messages":[]}',
        b'{"model":"stand-in-small","stream":1,"messages":[]}',
        b"",
    ],
)
async def test_a_body_with_two_readings_is_refused(caller: ByHand, body: bytes) -> None:
    """What the provider might read otherwise than we did is 400, recorded, and never sent."""
    sent = len(caller.run.provider.received)
    answer = await caller.post(body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert len(caller.run.provider.received) == sent
    (refused,) = await records(caller.run, answer.headers["x-request-id"])
    assert (refused["kind"], refused["decision"]["reason"]) == ("CallRefused", "invalid_request")


async def test_an_unknown_model_is_not_found(caller: ByHand) -> None:
    """A model that no endpoint offers is 404 in the format's own shape, and recorded under the name it was asked by."""
    answer = await caller.post({"model": "gpt-none"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert set(error) == caller.part.error_members
    assert error["type"] == caller.part.types[404]
    assert error.get("code", "model_not_found") == "model_not_found"
    (refused,) = await records(caller.run, answer.headers["x-request-id"])
    assert (refused["what"]["model"], refused["decision"]["outcome"]) == ("gpt-none", "deny")


async def test_a_model_outside_the_ceiling_is_refused(run: Running, part: Part) -> None:
    """Policy's no is 403 and names the policy; the record says that the ceiling stood in the way."""
    narrow = await by_hand(run, NARROW, part)
    answer = await narrow.post({"model": OTHER_MODEL})
    assert answer.status_code == 403
    assert "outside-ceiling" in answer.json()["error"]["message"]
    (refused,) = await records(run, answer.headers["x-request-id"])
    assert refused["decision"]["limited_by"] == "ceiling"
    assert refused["decision"]["policies"] == ["outside-ceiling"]


async def test_only_listed_headers_cross(caller: ByHand) -> None:
    """Nothing that would choose another account, organisation or host at the provider crosses, and no credential."""
    chosen = {
        "OpenAI-Organization": "org-other",
        "OpenAI-Project": "proj-other",
        "X-Api-Key": "sk-other",
        "Anthropic-Workspace-Id": "wrkspc-other",
        "Anthropic-User-Profile-Id": "uprof-other",
        "Anthropic-Dangerous-Direct-Browser-Access": "true",
        "Api-Key": "sk-other",
        "Cookie": "session=1",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-For": "10.0.0.1",
        "X-Portkey-Provider": "other",
        "Forwarded": "host=evil.example",
        "Idempotency-Key": "somebody-else's",
        "User-Agent": "agent/1",
        "X-Stainless-Lang": "python",
        "Content-Type": "application/json; charset=utf-7",
        "OpenAI-Beta": "assistants=v2",
        "Anthropic-Beta": "context-1m",
        "Anthropic-Version": "2023-01-01",
        "Accept": "application/json",
    }
    content = json.dumps({"model": MODEL, "messages": MESSAGES})
    answer = await caller.http.post(caller.part.call, content=content, headers={**caller.headers(), **chosen})
    assert answer.status_code == 200
    sent = caller.run.provider.received[-1].headers
    always = {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
    assert set(sent) == always | caller.part.sent
    assert sent.get("anthropic-version", "2023-01-01") == "2023-01-01"
    assert sent["host"] == caller.run.provider.origin.partition("://")[2]
    assert sent["content-type"] == "application/json"
    assert sent["user-agent"] == "broker"


async def test_the_callers_token_stops_here(caller: ByHand) -> None:
    """The provider sees its own key, and neither the caller's token nor its proof in any part of the request."""
    assert (await caller.post({"model": MODEL})).status_code == 200
    received = caller.run.provider.received[-1]
    assert caller.part.key_of(received.headers) == caller.run.provider.key
    everything = repr((received.path, dict(received.headers))).encode() + received.body
    assert caller.token.encode() not in everything
    assert "dpop" not in received.headers


@pytest.mark.parametrize("query", ["?api-version=1", "?model=stand-in-large", "?", "?x"])
async def test_a_query_is_not_forwarded(caller: ByHand, query: str) -> None:
    """A query could choose another account or version at the provider: refused, unless there is nothing in it."""
    sent = len(caller.run.provider.received)
    content = json.dumps({"model": MODEL, "messages": MESSAGES})
    answer = await caller.http.post(caller.part.call + query, content=content, headers=caller.headers())
    assert answer.status_code == (200 if query == "?" else 400)
    if query == "?":
        assert caller.run.provider.received[-1].path == f"/v1{caller.part.path}"
    else:
        assert len(caller.run.provider.received) == sent


@pytest.mark.parametrize("status", [401, 403])
async def test_a_provider_that_quotes_its_key_is_not_passed_on(caller: ByHand, status: int) -> None:
    """The provider's refusal of the broker's key is 502, without a word of the provider's text."""
    answer = await caller.post({"model": f"quotes-{status}"})
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == caller.part.types[502]
    assert caller.run.provider.key not in answer.text + repr(answer.headers)
    (_, failed) = await last_records(caller.run, 2)
    assert (failed["kind"], failed["request"]["failure"]) == ("CallFailed", "provider_failed")
    assert failed["request"]["status"] == status


@pytest.mark.parametrize(("model", "status"), [("fail-429", 429), ("fail-500", 500)])
@pytest.mark.parametrize("stream", [True, False])
async def test_a_providers_errors_pass(caller: ByHand, model: str, status: int, stream: bool) -> None:
    """Its status, its text and its Retry-After reach the caller; the record says that the call failed, and how."""
    answer = await caller.post({"model": model, "stream": stream})
    assert answer.status_code == status
    assert "message" in answer.json()["error"]
    assert answer.headers.get("retry-after") == ("1" if status == 429 else None)
    admitted, failed = await records(caller.run, answer.headers["broker-request-id"])
    assert (admitted["kind"], failed["kind"]) == ("CallAdmitted", "CallFailed")
    assert (failed["request"]["status"], failed["request"]["failure"]) == (status, "provider_status")


async def test_only_listed_headers_come_back(caller: ByHand) -> None:
    """The provider's limits and request id reach the caller; its account, cookies and host names do not."""
    answer = await caller.post({"model": "chatty"})
    shown = {name for name in answer.headers if name not in ("date", "server", "transfer-encoding")}
    assert shown == {"content-type", "broker-request-id", "broker-record"} | caller.part.returned


async def test_an_encoding_that_nobody_asked_for_is_named(caller: ByHand) -> None:
    """A provider that compresses all the same is passed on with the header that lets the caller read it."""
    content = json.dumps({"model": "compresses", "messages": MESSAGES})
    async with caller.http.stream("POST", caller.part.call, content=content, headers=caller.headers()) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert b"".join([chunk async for chunk in answer.aiter_raw()]) == b"\x1f\x8b not really"


async def test_a_redirect_is_refused(caller: ByHand) -> None:
    """The provider cannot send the broker, and its key with it, somewhere else: 502, and nothing more is asked."""
    sent = len(caller.run.provider.received)
    answer = await caller.post({"model": "redirects"})
    assert answer.status_code == 502
    assert "location" not in answer.headers
    assert len(caller.run.provider.received) == sent + 1
    assert (await last_records(caller.run, 1))[0]["request"]["failure"] == "outbound_refused"


@pytest.mark.parametrize("stream", [True, False])
async def test_usage_is_counted(caller: ByHand, stream: bool) -> None:
    """The end of a call holds the tokens that the provider reported, the bytes, and the admission it closes."""
    body = {"model": MODEL, "stream": stream, **({"stream_options": {"include_usage": True}} if stream else {})}
    answer = await caller.post(body)
    admitted, completed = await records(caller.run, answer.headers["broker-request-id"])
    assert (admitted["kind"], completed["kind"]) == ("CallAdmitted", "CallCompleted")
    assert (completed["request"]["input_tokens"], completed["request"]["output_tokens"]) == (3, 3)
    assert completed["request"]["bytes"] == len(answer.content)
    assert completed["request"]["admitted"] == int(answer.headers["broker-record"])
    assert admitted["who"]["agent"] == "nightly"
    inputs = {"operation": caller.part.operation, "stream": stream, "confirmation": "dpop"}
    assert admitted["decision"]["inputs"] == inputs


async def test_a_large_body_is_refused_for_its_size(tmp_path: Path) -> None:
    """A body over the bound is 413 whether its length is announced or not, recorded, and not forwarded."""
    async with running(tmp_path, gateway=Gateway(max_body_bytes=4096)) as run:
        await run.apply({**run.world(), "policies": {"agents.cedar": RULES}})
        caller = await by_hand(run)

        async def unannounced() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield b" " * 2048

        announced = await caller.post(b" " * 4097)
        streamed = await caller.http.post(CHAT, content=unannounced(), headers=caller.headers())
        assert (announced.status_code, streamed.status_code) == (413, 413)
        assert run.provider.received == []
        assert [record["decision"]["reason"] for record in await last_records(run, 2)] == ["too_large"] * 2


async def test_a_strangers_body_is_not_read(run: Running, caller: ByHand) -> None:
    """Who has not proved anything is answered before any of the body has come, and leaves no record of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", run.broker.settings.server.port)
    before = run.broker.audit.size
    writer.write(f"POST {caller.part.call} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    assert head.startswith(b"HTTP/1.1 401 ")
    writer.close()
    assert run.broker.audit.size == before


async def test_the_list_has_the_formats_shape(run: Running) -> None:
    """`GET /models` answers as the format does, with the endpoint as the owner."""
    caller = await by_hand(run)
    answer = await caller.http.get(MODELS, headers=caller.headers(MODELS, "GET"))
    document = answer.json()
    assert document["object"] == "list"
    assert {"id": MODEL, "object": "model", "created": 0, "owned_by": "stand-in"} in document["data"]
