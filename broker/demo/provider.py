"""A stand-in for a model provider that speaks both wire formats. There is no model behind it.

It answers over real HTTP on loopback, wants the one key it was made with, keeps every request it received for
a test or a demo to look at, and misbehaves on demand as providers do.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from aiohttp import web

from broker.clock import Clock
from broker.demo import messages as anthropic
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


class StandInProvider(LoopbackServer):
    """Answers `POST /v1/chat/completions`, `POST /v1/messages` and `GET /v1/models`.

    The answer to a message is that message, so its length is the caller's choice. As with the real one, a
    stream carries its usage only when `stream_options.include_usage` asks for it.

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
        if refusal := self._refusal(request):
            return refusal
        known = [*MODELS, *_BEHAVIOURS]
        return web.json_response({"object": "list", "data": [_model(name) for name in known]})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await self._receive(request)
        if refusal := self._refusal(request):
            return refusal
        asked = _parsed(body)
        messages = asked.get("messages")
        if not isinstance(messages, list) or not messages:
            return _error(400, "invalid_request_error", "'messages' must be a non-empty list.", None)
        model = str(asked.get("model"))
        if model not in MODELS and model not in _BEHAVIOURS:
            return _error(404, "invalid_request_error", f"The model `{model}` does not exist.", "model_not_found")
        behaviour = self._behaviour or next((known for known in _BEHAVIOURS if known == model), None)
        if behaviour == "fail-429":
            return _error(429, "requests", "Rate limit reached for requests.", "rate_limit_exceeded")
        if behaviour == "fail-500":
            return _error(500, "server_error", "The server had an error while processing your request.", None)
        words = [self.key] if behaviour == "leak-key" else _words(messages, asked, huge=behaviour == "huge-chunk")
        call = _Call(f"chatcmpl-{new_id(self._entropy)}", int(self._clock.now()), model, _usage(messages, words))
        pause_s = self._slow_pause_s if behaviour == "slow" else self._pause_s
        try:
            if asked.get("stream") is not True:
                if behaviour == "disconnect":
                    _cut(request)
                if behaviour == "slow":
                    await asyncio.sleep(pause_s)
                return web.json_response(call.completion("".join(words)))
            options = asked.get("stream_options")
            include_usage = isinstance(options, dict) and options.get("include_usage") is True
            events = call.events(words, include_usage=include_usage)
            return await self._stream(request, events, pause_s, cut_after=2 if behaviour == "disconnect" else None)
        except (asyncio.CancelledError, ConnectionError):
            if behaviour != "disconnect":
                self.left.set()
            raise

    async def _message(self, request: web.Request) -> web.StreamResponse:
        body = await self._receive(request)
        if not hmac.compare_digest(request.headers.get("x-api-key", "").encode(), self.key.encode()):
            return anthropic.error(401, "invalid x-api-key")
        if not request.headers.get("anthropic-version"):
            return anthropic.error(400, "anthropic-version: header is required")
        asked = _parsed(body)
        messages, model = asked.get("messages"), str(asked.get("model"))
        if not isinstance(messages, list) or not messages:
            return anthropic.error(400, "messages: at least one message is required")
        if model not in MODELS and model not in _BEHAVIOURS:
            return anthropic.error(404, f"model: {model}")
        if model in ("fail-429", "fail-500"):
            return anthropic.error(int(model[5:]), "The stand-in was asked to fail.")
        words = _words(messages, asked, huge=False)
        usage = _usage(messages, words)
        counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": len(words)}
        said = anthropic.Message(f"msg_{new_id(self._entropy)}", model, counted)
        if asked.get("stream") is not True:
            return web.json_response(said.whole("".join(words)), headers={"request-id": said.id})
        pause_s = self._slow_pause_s if model == "slow" else self._pause_s
        try:
            return await self._stream(
                request, said.events(words), pause_s, cut_after=2 if model == "disconnect" else None
            )
        except (asyncio.CancelledError, ConnectionError):
            if model != "disconnect":
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

    def _refusal(self, request: web.Request) -> web.Response | None:
        shown = request.headers.get("Authorization", "")
        if hmac.compare_digest(shown.encode(), f"Bearer {self.key}".encode()):
            return None
        return _error(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key")


@dataclass(frozen=True, slots=True)
class _Call:
    """One completion, in the two shapes it can be given."""

    id: str
    created: int
    model: str
    usage: Mapping[str, int]

    def completion(self, content: str) -> dict[str, object]:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage}

    def events(self, words: list[str], *, include_usage: bool) -> list[bytes]:
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": word}, None) for word in words]
        deltas.append(({}, "stop"))
        head = self._head("chat.completion.chunk")
        chunks: list[dict[str, object]] = [
            {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
            for delta, finish in deltas
        ]
        if include_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks]
            chunks.append({**head, "choices": [], "usage": self.usage})
        return [*(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


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


def _words(messages: list[object], asked: Mapping[str, object], *, huge: bool) -> list[str]:
    """The answer in pieces of one word, which count as one token each."""
    if huge:
        return ["x" * _HUGE_CHARACTERS]
    last = messages[-1]
    content = last.get("content") if isinstance(last, dict) else ""
    words = [f"{word} " for word in str(content).split()]
    limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
    return words[:limit] if isinstance(limit, int) and limit >= 0 else words


def _usage(messages: list[object], words: list[str]) -> dict[str, int]:
    prompt = sum(len(str(message.get("content")).split()) for message in messages if isinstance(message, dict))
    return {"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "stand-in"}


def _error(status: int, kind: str, message: str, code: str | None) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": code}
    headers = {"Retry-After": "1"} if status == 429 else None
    return web.json_response({"error": error}, status=status, headers=headers)
