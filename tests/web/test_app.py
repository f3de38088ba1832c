"""The dispatcher and the HTTP layer under it: what a request's target, headers and framing can and cannot change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import pytest_asyncio
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.settings import Server
from broker.web import asgi, protocol
from broker.web.protocol import MAX_HEAD_BYTES, BoundedProtocol
from tests.build import Running, free_port
from tests.gateway.world import CHAT, MESSAGES, ByHand, by_hand, last_records, until
from tests.serving import http_client
from tests.web.raw import request, send
from tests.web.routes import app_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = json.dumps({"model": "stand-in-small", "messages": MESSAGES}).encode()
HOSTS = ["x", "evil.example", "127.0.0.1:1", "[::1]", "api.openai.com", "a" * 300, "evil.example/api/v1", "\t"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(run: Running) -> ByHand:
    """An agent."""
    return await by_hand(run)


@asynccontextmanager
async def _served(application: Any) -> AsyncIterator[int]:
    """The port of an application behind the protocol that `broker serve` uses."""
    port = free_port()
    config = uvicorn.Config(application, port=port, http=BoundedProtocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await until(started)
    yield port
    server.should_exit = True
    await serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(run: Running) -> AsyncIterator[int]:
    """Where the same broker answers behind that protocol; its name stays the configured one."""
    async with _served(app_of(run.broker)) as found:
        yield found


# ------------------------------------------------------------------------------------------------ Host and target


@pytest.mark.parametrize("host", HOSTS)
async def test_the_host_header_changes_nothing(run: Running, port: int, caller: ByHand, host: str) -> None:
    """Metadata, challenges and decisions are the same whatever the Host header says (OpenFGA #3057, CVE-2026-49468)."""
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/openai/v1"):
        usual, odd = [await send(port, request("GET", path, {"Host": h})) for h in ("x", host)]
        assert usual is not None
        assert odd is not None
        assert (odd.status, odd.rest) == (200, usual.rest)
        assert run.url.encode() in odd.rest
    challenged = await send(port, request("GET", "/api/v1/whoami", {"Host": host}))
    assert challenged is not None
    assert challenged.status == 401
    assert f'"{run.url}/.well-known' in challenged.headers["www-authenticate"]
    called = await send(port, request("POST", CHAT, {**caller.headers(), "Host": host}, CALL))
    assert called is not None
    assert called.status == 200


async def test_no_host_header_and_two(run: Running, port: int, caller: ByHand) -> None:
    """A Host that is missing or doubled decides nothing either."""
    none = request("POST", CHAT, {**caller.headers(), "Host": ""}, CALL)
    two = request("POST", CHAT, caller.headers(), CALL).replace(b"Host: x\r\n", b"Host: x\r\nHost: evil\r\n")
    for data in (none, two):
        answer = await send(port, data)
        assert answer is not None
        assert answer.status in (200, 400)


@pytest.mark.parametrize(
    "authority", ["http://evil.example", "https://evil.example", "http://user:pw@evil.example:99", "HTTP://X"]
)
async def test_an_absolute_target_changes_nothing(run: Running, port: int, caller: ByHand, authority: str) -> None:
    """The authority of an absolute target is ignored: the path is routed, and the proof is checked for our own URL."""
    called = await send(port, request("POST", authority + CHAT, caller.headers(), CALL))
    assert called is not None
    assert called.status in (200, 400)
    other = await send(port, request("GET", f"{authority}/api/v1/whoami", {}))
    assert other is not None
    assert other.status in (400, 401)
    nowhere = await send(port, request("GET", f"{authority}/", {}))
    assert nowhere is not None
    assert nowhere.status in (400, 404)


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "x",
        "//",
        "/openai/v1/chat/completions/",
        "/openai/v1/./chat/completions",
        "/openai/v1/x/../chat/completions",
        "/openai//v1/chat/completions",
        "/OPENAI/v1/chat/completions",
        "/openai/v1/chat/completions%00",
        "/openai/v1/chat/completions%2F",
        "/openai/v1/chat/completions;x=1",
        "/openai/v1/chat\\completions",
        "http://",
        "http://x",
        "/\xff",
        "/" + "a" * 30_000,
    ],
)
async def test_a_target_that_is_almost_a_route(run: Running, port: int, caller: ByHand, target: str) -> None:
    """Only the exact path is the route: anything else is 400 or 404, with a token as without."""
    for headers in ({}, caller.headers()):
        answer = await send(port, request("POST", target, headers, CALL))
        assert answer is None or answer.status in (400, 404, 405, 414, 431), answer


async def test_an_encoded_path_needs_its_own_proof(run: Running, port: int, caller: ByHand) -> None:
    """A proof for a path's plain spelling is for another URL than one with needless escapes (RFC 9449 §4.3)."""
    path = "/openai/v1/chat%2Fcompletions"
    answer = await send(port, request("POST", path, caller.headers(), CALL))
    assert answer is not None
    assert answer.status in (401, 404)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)
@given(
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "CONNECT", "get", ""]) | st.text(max_size=5),
    target=st.sampled_from(["/api/v1/agents", "/token", CHAT, "/log/checkpoint", "*"]) | st.text(max_size=30),
    extra=st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=3),
    body=st.binary(max_size=40),
)
async def test_no_bytes_open_anything(
    port: int, method: str, target: str, extra: list[tuple[str, str]], body: bytes
) -> None:
    """Nonsense without a token is answered with a refusal, a public document, or a closed connection; never a 5xx."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in extra)
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{lines}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = await _ended(port, head.encode("utf-8") + body)
    if answer is not None and answer >= 0:
        public = target.partition("?")[0] in ("/log/checkpoint", "/healthz", "/readyz", "/openapi.json")
        assert answer in (400, 401, 404, 405, 413) or (public and answer == 200), answer


async def _ended(port: int, data: bytes) -> int | None:
    """The status of the answer to bytes that may be no request; None if nothing came before they ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        async with asyncio.timeout(10):
            line = await reader.readline()
        return int(line.split(b" ")[1]) if line else None
    except ConnectionError:
        return None
    finally:
        writer.close()


# --------------------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Content-Length : 5\r\n",
        b"X: a\r\n Content-Length: 5\r\n",
        b"X: a\x00b\r\nContent-Length: 5\r\n",
    ],
)
async def test_a_message_with_two_ends_is_refused(run: Running, port: int, caller: ByHand, framing: bytes) -> None:
    """What a proxy and we might cut in different places is not a request (RFC 9112 §6.3, §11.2)."""
    sent = len(run.provider.received)
    head = "".join(f"{name}: {value}\r\n" for name, value in caller.headers().items()).encode()
    smuggled = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    data = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode() + head + framing + b"\r\n" + b"0\r\n\r\n" + smuggled
    answer = await _ended(port, data)
    assert answer in (None, 400, 401)
    assert len(run.provider.received) == sent


async def test_what_trails_a_body_is_no_header(run: Running, port: int, caller: ByHand) -> None:
    """Header fields after a chunked body neither authenticate nor cross to the provider."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in caller.headers().items())
    chunked = "Host: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    body = f"{len(CALL):x}\r\n".encode() + CALL + b"\r\n0\r\n"
    late = f"POST {CHAT} HTTP/1.1\r\n{chunked}\r\n".encode() + body + fields.encode() + b"\r\n"
    answer = await send(port, late)
    assert answer is not None
    assert answer.status == 401
    trailed = f"POST {CHAT} HTTP/1.1\r\n{chunked}{fields}\r\n".encode() + body + b"OpenAI-Beta: late\r\n\r\n"
    answer = await send(port, trailed)
    assert answer is not None
    assert answer.status == 200
    assert "openai-beta" not in run.provider.received[-1].headers


async def test_headers_as_long_as_they_get(run: Running, port: int, caller: ByHand) -> None:
    """A token or proof of any length is refused as what it is, and never a failure of ours."""
    for name in ("Authorization", "DPoP"):
        for length in (1_000, 17_000, 60_000):
            headers = {**caller.headers(), name: "DPoP " + "a" * length}
            answer = await send(port, request("POST", CHAT, headers, CALL))
            assert answer is None or answer.status in (400, 401, 431), (name, length, answer)


async def test_a_body_that_never_comes_is_let_go(run: Running, port: int, caller: ByHand) -> None:
    """A caller that leaves before its body is whole leaves neither a record nor a call."""
    before, sent = run.broker.audit.size, len(run.provider.received)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("POST", CHAT, caller.headers(), CALL)[:-5])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with http_client() as other:  # answered after the loop has seen the connection go
        assert (await other.get(f"{run.url}/healthz")).text == "ok\n"
    assert (run.broker.audit.size, len(run.provider.received)) == (before, sent)


# ------------------------------------------------------------------------------------------------- whence it comes


def _scope(client: str, *forwarded: str) -> dict[str, Any]:
    return {"client": (client, 1), "headers": [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]}


@pytest.mark.parametrize(
    ("scope", "proxy", "source"),
    [
        (_scope("192.0.2.1"), None, "192.0.2.1"),
        (_scope("192.0.2.1", "127.0.0.1"), None, "192.0.2.1"),
        (_scope("192.0.2.1", "127.0.0.1"), "192.0.2.9", "192.0.2.1"),
        (_scope("192.0.2.9", "198.51.100.7"), "192.0.2.9", "198.51.100.7"),
        (_scope("192.0.2.9", "127.0.0.1, 198.51.100.7"), "192.0.2.9", "198.51.100.7"),
        (_scope("192.0.2.9", "127.0.0.1", "198.51.100.7"), "192.0.2.9", "198.51.100.7"),
        (_scope("192.0.2.9", "a" * 100), "192.0.2.9", "a" * 64),
        (_scope("127.0.0.1"), "127.0.0.1", "unknown"),
        (_scope("127.0.0.1", ""), "127.0.0.1", "unknown"),
        ({"client": None, "headers": []}, None, "unknown"),
    ],
)
async def test_who_says_where_a_request_comes_from(scope: dict[str, Any], proxy: str | None, source: str) -> None:
    """Only the one named proxy is believed, its last word only, and its silence is not its own address."""
    assert asgi.source(scope, proxy) == source


async def test_forwarded_headers_of_a_caller_are_not_believed(run: Running, caller: ByHand) -> None:
    """Without a named proxy the record holds the socket's address, whatever the request claims."""
    claims = {"X_Forwarded_For": "198.51.100.7", "Forwarded": "for=198.51.100.7", "X_Real_IP": "198.51.100.7"}
    assert (await caller.post({"model": "none"}, **claims)).status_code == 404
    assert (await last_records(run, 1))[0]["request"]["source"] == "127.0.0.1"
    assert Server().trusted_proxy is None


# ------------------------------------------------------------------------------------------------ what is described


async def test_the_document_describes_every_route(run: Running) -> None:
    """The OpenAPI document holds the hot routes and the public ones beside FastAPI's, the bodies included."""
    app = app_of(run.broker)
    async with http_client(base_url=run.url) as client:
        document = (await client.get("/openapi.json")).json()
    paths = document["paths"]
    for method, path in app._hot:
        assert method.lower() in paths[path]
    for path in (*app._published, "/log/checkpoint", "/log/tile/{level}/{index}", "/healthz", "/readyz"):
        assert "get" in paths[path]
    for path in ("/api/v1/changes", "/api/v1/contain", "/api/v1/policies/check", "/api/v1/policies/explain"):
        schema = paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["type"] == "object"
    assert "why" in paths["/api/v1/contain"]["post"]["requestBody"]["content"]["application/json"]["schema"]["required"]


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "GET", "POST"])
async def test_hot_routes_have_one_method(run: Running, method: str) -> None:
    """Another method is 405 with the one that is allowed, before any body is read."""
    async with http_client(base_url=run.url) as client:
        for allowed, path in app_of(run.broker)._hot:
            answer = await client.request(method, path)
            if method != allowed:
                assert (answer.status_code, answer.headers["allow"], answer.content) == (405, allowed, b"")


async def test_public_documents(run: Running) -> None:
    """What anybody may read is served from memory, to be cached a while; health says nothing but that."""
    async with http_client(base_url=run.url) as client:
        for path in app_of(run.broker)._published:
            answer = await client.get(path)
            assert answer.headers["cache-control"] == "public, max-age=300"
            assert orjson.loads(answer.content)
        assert [(await client.get(path)).text for path in ("/healthz", "/readyz")] == ["ok\n", "ok\n"]
        missing = await client.get("/nowhere")
    assert missing.headers["content-type"] == "application/problem+json"
    assert missing.headers["cache-control"] == "no-store"
    assert missing.json() == {
        "type": "about:blank", "title": "Not Found", "status": 404, "request_id": missing.headers["x-request-id"],
    }  # fmt: skip


# -------------------------------------------------------------------------------------------- the bounds of a head


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bounded() -> AsyncIterator[int]:
    """The port of a small application behind the bounded protocol; it answers with the size of the body."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body = 0
        more = True
        while more:
            message = await receive()
            body += len(message.get("body", b""))
            more = message.get("more_body", False)
        told = str((body, len(scope["headers"]))).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told})

    async with _served(application) as found:
        yield found


async def test_a_large_body_is_no_large_head(bounded: int) -> None:
    """Bodies of many times the bound pass, with their length announced and in chunks, again and again."""
    body = b"x" * (4 * MAX_HEAD_BYTES)
    announced = await send(bounded, request("POST", "/", {}, body))
    assert announced is not None
    assert str(len(body)).encode() in announced.rest
    chunks = b"".join(b"%x\r\n%s\r\n" % (1000, b"y" * 1000) for _ in range(300)) + b"0\r\n\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = await send(bounded, head + chunks)
    assert chunked is not None
    assert b"300000" in chunked.rest


@pytest.mark.parametrize(
    "endless",
    [b"GET /" + b"a" * 1000, b"GET / HTTP/1.1\r\nX: " + b"a" * 1000, b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 200],
    ids=["target", "one field", "many fields"],
)
async def test_an_endless_head_is_cut(bounded: int, endless: bytes) -> None:
    """A head that goes on beyond the bound ends the connection, wherever it is endless."""
    reader, writer = await asyncio.open_connection("127.0.0.1", bounded)
    writer.write(endless)
    sent = len(endless)
    try:
        while sent < 20 * MAX_HEAD_BYTES and not reader.at_eof():
            writer.write(endless[-1000:])
            sent += 1000
            await writer.drain()
            await asyncio.sleep(0)
    except ConnectionError:
        pass
    finally:
        writer.close()
    assert sent < 20 * MAX_HEAD_BYTES


async def test_endless_trailers_are_cut(bounded: int) -> None:
    """What trails a body is bounded like a head, and does not reach the application as header fields."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    few = await send(bounded, head + b"Late: 1\r\n\r\n")
    assert few is not None
    assert few.rest.endswith(b"(1, 3)\r\n0\r\n\r\n")
    many = await send(bounded, head + b"Late: 1234567890\r\n" * (20 * MAX_HEAD_BYTES // 18) + b"\r\n")
    assert many is None or many.status == 200


async def test_a_slow_head_is_cut(bounded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends no whole head in its time is closed, silent ones and dripping ones; kept ones are not."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.1)
    for begun in (b"", b"GET / HTTP/1.1\r\nX: "):
        reader, writer = await asyncio.open_connection("127.0.0.1", bounded)
        writer.write(begun)
        assert await asyncio.wait_for(reader.read(-1), 10) == b""
        writer.close()
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 30.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", bounded)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 10)
    writer.close()
