"""A stand-in for a model provider that speaks both wire formats. There is no model behind it.

It answers over real HTTP on loopback, wants the one key it was made with, keeps every request it received for
a test or a demo to look at, and misbehaves on demand as providers do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from aiohttp import web

from broker.clock import Clock
from broker.demo import completions, messages
from broker.demo.call import Call
from broker.demo.server import LoopbackServer
from broker.entropy import Entropy, new_id

Behaviour = Literal["fail-429", "fail-500", "disconnect", "slow", "huge-chunk", "leak-key"]
"""How it can misbehave: an error with its JSON body; a connection cut in the middle of the answer; a long
pause after every piece; one piece of a mebibyte; its own key for an answer."""

MODELS = ("stand-in-small", "stand-in-large")
_BEHAVIOURS: tuple[Behaviour, ...] = get_args(Behaviour)
_HUGE_CHARACTERS = 1024 * 1024
_HOLD_STEP_S = 0.005
_HOLD_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it arrived.

    Attributes:
        method: as sent.
        path: with its query.
        headers: by lower-case name.
        body: every byte.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class _WireFormat(Protocol):
    """How a wire format says things; one module each."""

    def refusal(self, headers: Mapping[str, str], key: str) -> web.Response | None: ...
    def error(self, status: int, text: str) -> web.Response: ...
    def whole(self, call: Call) -> web.Response: ...
    def events(self, call: Call) -> list[bytes]: ...


class StandInProvider(LoopbackServer):
    """Answers `POST /v1/chat/completions`, `POST /v1/messages` and `GET /v1/models`.

    The answer to a message is that message, so its length is the caller's choice.

    Args:
        clock: what `created` comes from.
        entropy: what ids and the key come from.
        behaviour: how every call goes wrong; a call to a model of that name goes wrong in any case.
        pause_s: seconds between the pieces of a stream.
        slow_pause_s: the same for "slow".
        hold: keep every stream back after its first word until somebody sets `holding` to False, five seconds
            at most. Whoever has read that word while it is still holding was not kept waiting for the rest.

    Attributes:
        key: the key it wants, as a bearer token or, for messages, as `x-api-key`.
        received: the requests so far, those it refused included.
        arrived: set when a request has arrived.
        left: set when a client left before the end of its answer.
        holding: whether a stream is kept back now.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        entropy: Entropy,
        behaviour: Behaviour | None = None,
        pause_s: float = 0.002,
        slow_pause_s: float = 60.0,
        hold: bool = False,
    ) -> None:
        super().__init__(
            [
                web.post("/v1/chat/completions", self._complete),
                web.post("/v1/messages", self._message),
                web.get("/v1/models", self._models),
            ]
        )
        self._clock = clock
        self._entropy = entropy
        self._behaviour = behaviour
        self._pause_s = pause_s
        self._slow_pause_s = slow_pause_s
        self.key = f"sk-stand-in-{new_id(entropy)}"
        self.received: list[Received] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()
        self.holding = False
        self._hold = hold

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return f"{self.origin}/v1"

    async def _models(self, request: web.Request) -> web.Response:
        await self._receive(request)
        if refusal := completions.refusal(request.headers, self.key):
            return refusal
        known = [*MODELS, *_BEHAVIOURS]
        return web.json_response({"object": "list", "data": [_model(name) for name in known]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, completions)

    async def _message(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, messages)

    async def _answer(self, request: web.Request, wire: _WireFormat) -> web.StreamResponse:
        """One call, well or badly, in either format."""
        body = await self._receive(request)
        if refusal := wire.refusal(request.headers, self.key):
            return refusal
        asked = _parsed(body)
        told, model = asked.get("messages"), str(asked.get("model"))
        if not isinstance(told, list) or not told:
            return wire.error(400, "'messages' must be a non-empty list.")
        if model not in MODELS and model not in _BEHAVIOURS:
            return wire.error(404, f"The model `{model}` does not exist.")
        behaviour = self._behaviour or next((known for known in _BEHAVIOURS if known == model), None)
        if behaviour in ("fail-429", "fail-500"):
            return wire.error(int(behaviour[5:]), "The stand-in was asked to fail.")
        words = [self.key] if behaviour == "leak-key" else _words(told, asked, huge=behaviour == "huge-chunk")
        call = Call(new_id(self._entropy), int(self._clock.now()), model, asked, words)
        pause_s = self._slow_pause_s if behaviour == "slow" else self._pause_s
        try:
            if asked.get("stream") is not True:
                if behaviour == "disconnect":
                    _cut(request)
                if behaviour == "slow":
                    await asyncio.sleep(pause_s)
                return wire.whole(call)
            cut_after = 2 if behaviour == "disconnect" else None
            return await self._stream(request, wire.events(call), pause_s, cut_after=cut_after)
        except (asyncio.CancelledError, ConnectionError):
            if behaviour != "disconnect":
                self.left.set()
            raise

    async def _stream(
        self, request: web.Request, events: list[bytes], pause_s: float, *, cut_after: int | None
    ) -> web.StreamResponse:
        """Writes server-sent events one at a time, each on its way before the next is made."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        for number, event in enumerate(events):
            if number == cut_after:
                _cut(request)
            self.holding = self._hold and number == 1
            await response.write(event)
            await self._held()
            await asyncio.sleep(pause_s)
        await response.write_eof()
        return response

    async def _held(self) -> None:
        for _ in range(_HOLD_STEPS):
            if not self.holding:
                return
            await asyncio.sleep(_HOLD_STEP_S)
        self.holding = False

    async def _receive(self, request: web.Request) -> bytes:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(request.method, request.path_qs, headers, body))
        self.arrived.set()
        return body


def _cut(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError("the stand-in cut the connection")


def _parsed(body: bytes) -> dict[str, object]:
    try:
        asked = json.loads(body)
    except ValueError:
        return {}
    return asked if isinstance(asked, dict) else {}


def _words(told: list[object], asked: Mapping[str, object], *, huge: bool) -> list[str]:
    """The answer in pieces of one word, which count as one token each."""
    if huge:
        return ["x" * _HUGE_CHARACTERS]
    last = told[-1]
    content = last.get("content") if isinstance(last, dict) else ""
    words = [f"{word} " for word in str(content).split()]
    limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
    return words[:limit] if isinstance(limit, int) and limit >= 0 else words


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "stand-in"}
