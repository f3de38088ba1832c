"""The OpenAI wire format, as far as the broker must understand it: which model, whether to stream, what was used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from broker.errors import InvalidRequest, Malformed
from broker.formats import canonical_json
from broker.gateway.endpoints import Model

PATHS = {"chat.completions": "/chat/completions"}
"""What an endpoint's base URL is followed by, by operation."""

_DECISIVE = frozenset({"model", "stream"})
_ELSEWHERE = frozenset(
    {"models", "model_list", "fallbacks", "context_window_fallbacks", "route", "provider", "custom_llm_provider"}
    | {"api_base", "base_url", "api_key", "api_version"}
)
"""Members by which routers that speak this format choose another model or address than `model` says."""

_MAX_LINE = 256 * 1024
_MAX_WHOLE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What the broker needs to know of a request's body; the rest travels on unread."""

    model: str
    stream: bool


def parse_call(body: bytes, *, max_bytes: int) -> Asked:
    """Reads the model and the streaming flag.

    The body is parsed strictly, duplicate names refused, also those that differ in case alone, for some parsers do not
    tell them apart: what we decide on must be what the provider reads.

    Raises:
        InvalidRequest: no JSON object, or no usable `model` or `stream`.
    """
    try:
        members = canonical_json.parse(body, max_bytes=max_bytes, max_depth=128)
    except Malformed as error:
        raise InvalidRequest(f"The body is not acceptable JSON: {error.detail}") from error
    if not isinstance(members, dict):
        raise InvalidRequest("The body must be a JSON object.")
    elsewhere = _ELSEWHERE.intersection(members)
    if elsewhere:
        raise InvalidRequest(f"`{min(elsewhere)}` would let the provider answer from another model: leave it out.")
    for name in members:
        if name not in _DECISIVE and name.casefold() in _DECISIVE:
            raise InvalidRequest(f"Write `{name.casefold()}` in small letters.")
    model, stream = members.get("model"), members.get("stream")
    if not isinstance(model, str) or not 0 < len(model) <= 200:
        raise InvalidRequest("The body needs `model`: the name of a model that the broker offers.")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("`stream` must be true or false.")
    return Asked(model, bool(stream))


def model_list(models: Iterable[Model]) -> bytes:
    """The answer of `GET /models`."""
    data = [{"id": model.name, "object": "model", "created": 0, "owned_by": model.endpoint.name} for model in models]
    return orjson.dumps({"object": "list", "data": data})


def error_body(message: str, *, type: str, code: str) -> bytes:
    """An error in the shape that the format's clients show."""
    return orjson.dumps({"error": {"message": message, "type": type, "param": None, "code": code}})


class UsageCounter:
    """Counts an answer as it passes: bytes, and the tokens that the provider reports. Holds a line at most.

    Args:
        stream: whether the answer is a stream of events; else it is one JSON document.
    """

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._kept = bytearray()
        self._overlong = False
        self.size = 0
        self.done = False
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    def feed(self, chunk: bytes) -> None:
        """Takes the next piece of the answer."""
        self.size += len(chunk)
        if not self._stream:
            if self.size <= _MAX_WHOLE:
                self._kept += chunk
            return
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if not self._overlong:
                self._line(bytes(self._kept) + line)
            self._kept.clear()
            self._overlong = False
        if len(self._kept) + len(rest) > _MAX_LINE:
            self._kept.clear()
            self._overlong = True
        elif not self._overlong:
            self._kept += rest

    def finish(self) -> None:
        """The answer has ended."""
        if not self._stream and self.size <= _MAX_WHOLE:
            self._document(bytes(self._kept))
        elif self._stream and self._kept:
            self._line(bytes(self._kept))
        self._kept.clear()

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            if b'"usage"' in line:
                self._document(line[5:])
            elif line[5:].strip() == b"[DONE]":
                self.done = True

    def _document(self, data: bytes) -> None:
        try:
            members = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        usage = members.get("usage") if isinstance(members, Mapping) else None
        if isinstance(usage, Mapping):
            self.input_tokens = _count(usage.get("prompt_tokens"))
            self.output_tokens = _count(usage.get("completion_tokens"))


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
