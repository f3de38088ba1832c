"""A token endpoint and a gateway that really check proofs, small enough to go wrong in every way a test wants."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field

from aiohttp import web

from broker.demo.server import LoopbackServer
from broker.entropy import new_id, system_entropy
from broker.errors import InvalidDpopProof
from broker.formats import dpop
from tests.fakes import FakeClock

EVIDENCE = "header.payload.signature"


@dataclass
class Asked:
    """A request that reached the token endpoint or the gateway, with its verified proof."""

    form: dict[str, str]
    headers: dict[str, str]
    path: str
    body: bytes
    jti: str
    jkt: str
    nonce: str | None


@dataclass
class Faults:
    """What goes wrong next.

    Attributes:
        token: answers that the token endpoint gives in place of tokens, each once.
        token_nonce, gateway_nonce: the nonce that each wants to see.
        fickle: the token endpoint wants another nonce than the one it was shown, every time.
        hold: while it is not set, the token endpoint does not answer.
        cut: the token endpoint breaks the connection.
        dead: tokens that the gateway no longer takes.
        refuse_all, refusal_nonce: the gateway answers every request with this challenge and nonce.
        redirect: where the token endpoint redirects to.
    """

    token: deque[tuple[int, object]] = field(default_factory=deque)
    token_nonce: str | None = None
    fickle: bool = False
    gateway_nonce: str | None = None
    hold: asyncio.Event | None = None
    cut: bool = False
    dead: set[str] = field(default_factory=set)
    refuse_all: str | None = None
    refusal_nonce: str | None = None
    redirect: str | None = None


class StandInBroker(LoopbackServer):
    """Issues opaque tokens bound to keys, and takes them at `/openai/v1/…` and `/anthropic/v1/…`.

    Args:
        clock: the time of its proofs; it is the client's clock as well.
        lifetime_s: of its tokens.
    """

    def __init__(self, clock: FakeClock, *, lifetime_s: int = 300) -> None:
        parts = [web.route("*", f"/{wire}/v1/{{tail:.*}}", self._gateway) for wire in ("openai", "anthropic")]
        super().__init__([web.post("/token", self._token), *parts])
        self._clock = clock
        self._lifetime_s = lifetime_s
        self._bound: dict[str, str] = {}
        self._seen: set[str] = set()
        self.faults = Faults()
        self.tokens: list[Asked] = []
        self.calls: list[Asked] = []
        self.arrived = asyncio.Event()

    @property
    def url(self) -> str:
        """A URL behind its gateway."""
        return f"{self.origin}/openai/v1/echo"

    def resource_of(self, call: Asked) -> str:
        """What the token that a call was made with is for."""
        issued = list(self._bound).index(call.headers["authorization"].partition(" ")[2])
        return self.tokens[issued].form["resource"]

    def issued(self) -> list[str]:
        """The tokens so far, oldest first."""
        return list(self._bound)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        form = {name: str(value) for name, value in (await request.post()).items()}
        asked = self._asked(request, body, form, None)
        self.tokens.append(asked)
        self.arrived.set()
        if self.faults.hold is not None:
            await self.faults.hold.wait()
        if self.faults.redirect is not None:
            return web.Response(status=307, headers={"Location": self.faults.redirect})
        if self.faults.cut:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        wanted = f"token-{len(self.tokens)}" if self.faults.fickle else self.faults.token_nonce
        if wanted is not None and asked.nonce != wanted:
            headers = {"DPoP-Nonce": wanted}
            return web.json_response({"error": "use_dpop_nonce"}, status=400, headers=headers)
        if self.faults.token:
            status, answer = self.faults.token.popleft()
            if isinstance(answer, str):
                return web.Response(status=status, text=answer, content_type="text/html")
            return web.json_response(answer, status=status)
        token = f"token-{len(self._bound)}-{new_id(system_entropy)}"
        self._bound[token] = asked.jkt
        answer = {"access_token": token, "token_type": "DPoP", "expires_in": self._lifetime_s, "scope": "calls"}
        return web.json_response(answer)

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "DPoP":
            return _challenge('Bearer error="invalid_token"')
        asked = self._asked(request, body, {}, token)
        self.calls.append(asked)
        if self.faults.refuse_all is not None:
            return _challenge(self.faults.refuse_all, nonce=self.faults.refusal_nonce)
        if self.faults.gateway_nonce is not None and asked.nonce != self.faults.gateway_nonce:
            return _challenge('DPoP error="use_dpop_nonce", algs="ES256"', nonce=self.faults.gateway_nonce)
        if self._bound.get(token) != asked.jkt or token in self.faults.dead:
            return _challenge('Bearer realm="x", DPoP algs="ES256", error="invalid_token"')
        if request.path.endswith("/messages"):
            return _message(json.loads(body))
        if request.path.endswith("/chat/completions"):
            return await _completion(request, json.loads(body))
        return web.Response(body=body or b"empty")

    def _asked(self, request: web.Request, body: bytes, form: dict[str, str], token: str | None) -> Asked:
        (proof,) = request.headers.getall("DPoP")
        url = f"{self.origin}{request.rel_url.raw_path}"
        verified = dpop.verify(proof, method=request.method, url=url, now=self._clock.now(), access_token=token)
        if verified.jti in self._seen:
            raise InvalidDpopProof("a proof came twice")
        self._seen.add(verified.jti)
        headers = {name.lower(): value for name, value in request.headers.items()}
        return Asked(form, headers, request.path, body, verified.jti, verified.jkt, verified.nonce)


def _challenge(text: str, nonce: str | None = None) -> web.Response:
    headers = {"WWW-Authenticate": text, **({} if nonce is None else {"DPoP-Nonce": nonce})}
    return web.json_response({"error": {"message": "no"}}, status=401, headers=headers)


def _message(asked: dict[str, object]) -> web.Response:
    said = {"id": "m", "type": "message", "role": "assistant", "model": asked["model"], "stop_reason": "end_turn"}
    usage = {"input_tokens": 1, "output_tokens": 2}
    return web.json_response({**said, "content": [{"type": "text", "text": "one two"}], "usage": usage})


async def _completion(request: web.Request, asked: dict[str, object]) -> web.StreamResponse:
    head = {"id": "c", "created": 1, "model": asked["model"]}
    if not asked.get("stream"):
        message = {"role": "assistant", "content": "one two"}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        return web.json_response({**head, "object": "chat.completion", "choices": choices})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for word in ("one ", "two"):
        choices = [{"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}]
        chunk = {**head, "object": "chat.completion.chunk", "choices": choices}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response
