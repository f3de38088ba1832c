"""What the gateway's tests share: callers made by hand, and a provider that misbehaves in more ways."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from broker.clock import SystemClock
from broker.db.engine import execute
from broker.demo.provider import StandInProvider
from broker.entropy import system_entropy
from tests.build import MODEL, OTHER_MODEL, Running, call_headers, es256, token_request

CHAT = "/openai/v1/chat/completions"
MODELS = "/openai/v1/models"
MESSAGES = [{"role": "user", "content": "one two three"}]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the gateway: a wire format as its callers and its provider know it.

    Attributes:
        wire: its name.
        endpoint: the one of the test's world that speaks it.
        operation, path: what is called, here and behind the provider's base URL.
        error_members: of `error` in the body of an error.
        types: the type that errors have, by status.
        sent: the header fields that only this format's calls reach the provider with.
        returned: those of the provider's that only this format's callers get to see.
        first: how a stream begins.
        last: the event that ends one; `failed`: the event that says it failed.
    """

    wire: str
    endpoint: str
    operation: str
    path: str
    error_members: frozenset[str]
    types: Mapping[int, str]
    sent: frozenset[str]
    returned: frozenset[str]
    first: bytes
    last: bytes
    failed: bytes

    @property
    def resource(self) -> str:
        """Where it is below the broker's origin; tokens are for it."""
        return f"/{self.wire}/v1"

    @property
    def call(self) -> str:
        """The path of a call."""
        return self.resource + self.path

    @property
    def models(self) -> str:
        """The path of the list."""
        return f"{self.resource}/models"

    def key_of(self, headers: Mapping[str, str]) -> str:
        """The provider's key in what the provider received."""
        return headers["x-api-key"] if self.wire == "anthropic" else headers["authorization"].removeprefix("Bearer ")


PARTS = {
    "openai": Part(
        wire="openai",
        endpoint="stand-in",
        operation="chat.completions",
        path="/chat/completions",
        error_members=frozenset({"message", "type", "param", "code"}),
        types={400: "invalid_request_error", 404: "invalid_request_error", 502: "server_error"},
        sent=frozenset({"authorization", "openai-beta"}),
        returned=frozenset({"x-request-id", "x-ratelimit-remaining-requests", "openai-processing-ms"}),
        first=b"data: {",
        last=b"data: [DONE]\n\n",
        failed=b'data: {"error": {"message": "overloaded"}}\n\n',
    ),
    "anthropic": Part(
        wire="anthropic",
        endpoint="stand-in-messages",
        operation="messages",
        path="/messages",
        error_members=frozenset({"message", "type"}),
        types={400: "invalid_request_error", 404: "not_found_error", 502: "api_error"},
        sent=frozenset({"x-api-key", "anthropic-version", "anthropic-beta"}),
        returned=frozenset({"request-id", "anthropic-ratelimit-requests-remaining"}),
        first=b"event: message_start\ndata: {",
        last=b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
        failed=b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n',
    ),
}
OPENAI = PARTS["openai"]

_BEHAVIOURS = ("fail-429", "fail-500", "disconnect", "slow", "huge-chunk")

RULES = """
@id("nightly") @agent("nightly") @owner("gateway-data") @ceiling("stand-in/* stand-in-messages/*")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
when { principal.subject == "job-7" };

@id("narrow") @agent("narrow") @owner("gateway-web")
@ceiling("stand-in/stand-in-small stand-in-messages/stand-in-small")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
when { principal.subject == "job-8" };
"""

NARROW = "job-8"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Unruly(StandInProvider):
    """The stand-in, with answers of a test's own: `answers` maps a model's name to what comes back."""

    def __init__(self) -> None:
        super().__init__(clock=SystemClock(), entropy=system_entropy, slow_pause_s=15)
        self.answers: dict[str, Answer] = {
            "quotes-401": self._quotes(401),
            "quotes-403": self._quotes(403),
            "redirects": self._redirects,
            "compresses": self._compresses,
            "chatty": self._chatty,
            "fails-midway": self._fails_midway,
            "lingers": self._lingers,
        }

    async def _answer(self, request: web.Request, wire: Any) -> web.StreamResponse:
        answer = self.answers.get(str(json.loads(await request.read()).get("model")))
        if answer is None:
            return await super()._answer(request, wire)
        await self._receive(request)
        return await answer(request)

    def _quotes(self, status: int) -> Answer:
        async def answer(_request: web.Request) -> web.Response:
            return web.json_response({"error": {"message": f"Incorrect API key provided: {self.key}"}}, status=status)

        return answer

    async def _redirects(self, _request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{self.origin}/v1/elsewhere"})

    async def _compresses(self, _request: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"})

    async def _chatty(self, _request: web.Request) -> web.Response:
        headers = {
            "x-request-id": "req-1",
            "x-ratelimit-remaining-requests": "9",
            "openai-processing-ms": "12",
            "openai-organization": "acme-corp",
            "request-id": "req-1",
            "anthropic-ratelimit-requests-remaining": "9",
            "anthropic-organization-id": "acme-corp",
            "anthropic-workspace-id": "wrkspc-1",
            "set-cookie": "session=1",
            "x-internal": "host-7",
            "www-authenticate": "Bearer",
        }
        return web.json_response({"choices": []}, headers=headers)

    async def _fails_midway(self, request: web.Request) -> web.StreamResponse:
        """A stream that says that it failed, and then ends well."""
        part = self._part(request)
        response = await self._begun(request)
        await response.write(part.failed + part.last)
        await response.write_eof()
        return response

    async def _lingers(self, request: web.Request) -> web.StreamResponse:
        """A stream whose last event is there while its end is not."""
        response = await self._begun(request)
        await response.write(self._part(request).last)
        try:
            await asyncio.sleep(60)
        finally:
            self.left.set()
        return response

    def _part(self, request: web.Request) -> Part:
        return next(part for part in PARTS.values() if request.path.endswith(part.path))

    async def _begun(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        return response


def manifest(run: Running, **more: Any) -> dict[str, Any]:
    """The world of `Running`, with the provider's every way to misbehave on offer."""
    world = run.world(policies={"agents.cedar": RULES}, **more)
    unruly = sorted(run.provider.answers) if isinstance(run.provider, Unruly) else []
    offered = {**world["endpoints"]["stand-in"], "models": [MODEL, OTHER_MODEL, *_BEHAVIOURS, *unruly]}
    world["endpoints"].update({part.endpoint: {**offered, "wire": part.wire} for part in PARTS.values()})
    return world


@dataclass(slots=True)
class ByHand:
    """A caller whose every byte a test can choose."""

    run: Running
    http: httpx2.AsyncClient
    key: ec.EllipticCurvePrivateKey
    token: str
    part: Part

    def headers(self, path: str = "", method: str = "POST") -> dict[str, str]:
        """The token and a fresh proof, for a call unless a path is given."""
        return call_headers(self.run, self.token, self.key, path or self.part.call, method)

    async def post(self, body: bytes | Mapping[str, Any], **headers: str) -> httpx2.Response:
        """One call; a mapping is sent as JSON with some messages."""
        content = body if isinstance(body, bytes) else json.dumps({"messages": MESSAGES, **body}).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(self.part.call, content=content, headers={**self.headers(), **extra})

    async def models(self) -> set[str]:
        """The names of the models on this caller's list."""
        answer = await self.http.get(self.part.models, headers=self.headers(self.part.models, "GET"))
        assert answer.status_code == 200, answer.text
        return {model["id"] for model in answer.json()["data"]}


async def by_hand(run: Running, subject: str = "job-7", part: Part = OPENAI) -> ByHand:
    """A caller with a token of its own, for one part of the gateway."""
    key = es256()
    answer = await token_request(run, key=key, evidence=run.evidence(subject), resource=run.url + part.resource)
    assert answer.status_code == 200, answer.text
    return ByHand(run, await run.client(), key, answer.json()["access_token"], part)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Waits for what happens by itself, ten seconds at most."""
    async with asyncio.timeout(10):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.005)


async def records(run: Running, request_id: str) -> list[dict[str, Any]]:
    """All records of one request, oldest first, each with its kind and groups."""
    query = "SELECT kind, groups FROM records WHERE request_id = ? ORDER BY idx"
    rows = await run.broker.read(lambda s: list(execute(s.connection(), query, (request_id,))))
    return [
        {"kind": kind, **{name: json.loads(text) for name, (_, text) in json.loads(groups).items() if text}}
        for kind, groups in rows
    ]


async def last_records(run: Running, count: int) -> list[dict[str, Any]]:
    """The newest records, oldest first."""
    query = "SELECT kind, groups FROM records ORDER BY idx DESC LIMIT ?"
    rows = await run.broker.read(lambda s: list(execute(s.connection(), query, (count,))))
    return [
        {"kind": kind, **{name: json.loads(text) for name, (_, text) in json.loads(groups).items() if text}}
        for kind, groups in reversed(rows)
    ]
