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
from broker.demo.provider import StandInProvider
from broker.entropy import system_entropy
from tests.build import MODEL, OTHER_MODEL, Running, call_headers, es256, token_request

CHAT = "/openai/v1/chat/completions"
MODELS = "/openai/v1/models"
MESSAGES = [{"role": "user", "content": "one two three"}]

_BEHAVIOURS = ("fail-429", "fail-500", "disconnect", "slow", "huge-chunk")

RULES = """
@id("nightly") @agent("nightly") @owner("gateway-data") @ceiling("stand-in/*")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
when { principal.subject == "job-7" };

@id("narrow") @agent("narrow") @owner("gateway-web") @ceiling("stand-in/stand-in-small")
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
        }

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        answer = self.answers.get(str(json.loads(await request.read()).get("model")))
        if answer is None:
            return await super()._complete(request)
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
            "set-cookie": "session=1",
            "x-internal": "host-7",
            "www-authenticate": "Bearer",
        }
        return web.json_response({"choices": []}, headers=headers)


def manifest(run: Running, **more: Any) -> dict[str, Any]:
    """The world of `Running`, with the provider's every way to misbehave on offer."""
    world = run.world(policies={"agents.cedar": RULES}, **more)
    unruly = sorted(run.provider.answers) if isinstance(run.provider, Unruly) else []
    world["endpoints"]["stand-in"]["models"] = [MODEL, OTHER_MODEL, *_BEHAVIOURS, *unruly]
    return world


@dataclass(slots=True)
class ByHand:
    """A caller whose every byte a test can choose."""

    run: Running
    http: httpx2.AsyncClient
    key: ec.EllipticCurvePrivateKey
    token: str

    def headers(self, path: str = CHAT, method: str = "POST") -> dict[str, str]:
        """The token and a fresh proof."""
        return call_headers(self.run, self.token, self.key, path, method)

    async def post(self, body: bytes | Mapping[str, Any], **headers: str) -> httpx2.Response:
        """One call; a mapping is sent as JSON with some messages."""
        content = body if isinstance(body, bytes) else json.dumps({"messages": MESSAGES, **body}).encode()
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(CHAT, content=content, headers={**self.headers(), **extra})

    async def models(self) -> set[str]:
        """The names of the models on this caller's list."""
        answer = await self.http.get(MODELS, headers=self.headers(MODELS, "GET"))
        assert answer.status_code == 200, answer.text
        return {model["id"] for model in answer.json()["data"]}


async def by_hand(run: Running, subject: str = "job-7") -> ByHand:
    """A caller with a token of its own."""
    key = es256()
    answer = await token_request(run, key=key, evidence=run.evidence(subject))
    assert answer.status_code == 200, answer.text
    return ByHand(run, await run.client(), key, answer.json()["access_token"])


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
    rows = await run.broker.read(lambda s: list(s.connection().exec_driver_sql(query, (request_id,))))
    return [
        {"kind": kind, **{name: json.loads(text) for name, (_, text) in json.loads(groups).items() if text}}
        for kind, groups in rows
    ]


async def last_records(run: Running, count: int) -> list[dict[str, Any]]:
    """The newest records, oldest first."""
    query = "SELECT kind, groups FROM records ORDER BY idx DESC LIMIT ?"
    rows = await run.broker.read(lambda s: list(s.connection().exec_driver_sql(query, (count,))))
    return [
        {"kind": kind, **{name: json.loads(text) for name, (_, text) in json.loads(groups).items() if text}}
        for kind, groups in reversed(rows)
    ]
