"""What wire formats share: which model a body asks for, what an answer reports; a format says how it differs.

Unknown members of a body travel on unread. The model and the streaming flag decide, so they are read strictly: what we
decide on must be what the provider reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from broker.errors import InvalidRequest, Malformed
from broker.formats import canonical_json
from broker.gateway.endpoints import Model

_DECISIVE = frozenset({"model", "stream"})
_MAX_LINE = 256 * 1024
_MAX_WHOLE = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """What a document or an event of a stream says of its call so far; None where it says nothing.

    Input tokens are all that models were given for it, read from a cache or not, and output tokens all that they made:
    neither a cache nor work that a provider lists apart is a way around a meter.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    done: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire format.

    Args:
        name: how paths and endpoints call it.
        paths: what an endpoint's base URL is followed by, by operation.
        request_headers: the caller's header fields that pass, lower case.
        default_headers: sent where the caller has none of that name.
        answer_headers, answer_prefixes: the provider's header fields that pass, by name and by beginning.
        request_id_headers: the fields in which clients look for a request's id, in the broker's own answers.
        key_header: the field that carries the provider's key, and what stands before it.
        elsewhere: members of a body that would let the provider answer from another model or address, in small letters.
        tools_name_models: whether an item of `tools` may name a model that is asked as well; such a tool is refused.
        queries: the query strings that pass with a call; each is passed on as it is.
        telling: a line of a stream is read only if one of these stands in it; beside each how it stands there when it
            says nothing.
        told: reads a document or an event.
        last_line: the line that ends a stream and is no JSON; empty if there is none.
        model_list: the answer to a request for the models, from its query string.
        error_body: an error in the shape that the format's clients show, from status, text, code and request id.
    """

    name: str
    paths: Mapping[str, str]
    request_headers: frozenset[bytes]
    default_headers: tuple[tuple[str, str], ...]
    answer_headers: frozenset[bytes]
    answer_prefixes: tuple[bytes, ...]
    request_id_headers: tuple[bytes, ...]
    key_header: tuple[str, str]
    elsewhere: frozenset[str]
    tools_name_models: bool
    queries: frozenset[bytes]
    telling: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    told: Callable[[Mapping[str, object]], Told]
    last_line: bytes
    model_list: Callable[[Sequence[Model], bytes], bytes]
    error_body: Callable[[int, str, str, str], bytes]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the broker needs to know of a request's body; the rest travels on unread."""

    model: str
    stream: bool


def parse_call(wire: Wire, body: bytes, *, max_bytes: int) -> Asked:
    """Reads the model and the streaming flag.

    The body is parsed strictly: a name that stands twice is refused, and so is a guarded one in other letters.

    Raises:
        InvalidRequest: no JSON object, or no usable `model` or `stream`.
    """
    try:
        members = canonical_json.parse(body, max_bytes=max_bytes, max_depth=128)
    except Malformed as error:
        raise InvalidRequest(f"The body is not acceptable JSON: {error.detail}") from error
    if not isinstance(members, dict):
        raise InvalidRequest("The body must be a JSON object.")
    for name in members:
        folded = name.casefold()  # some parsers do not tell cases apart
        if folded in wire.elsewhere:
            raise InvalidRequest(f"`{folded}` would let the provider answer from another model: leave it out.")
        if folded in _DECISIVE and name != folded:
            raise InvalidRequest(f"Write `{folded}` in small letters.")
    if wire.tools_name_models and _names_a_model(members.get("tools")):
        raise InvalidRequest("A tool with `model` would let another model answer, undecided: leave it out.")
    model, stream = members.get("model"), members.get("stream")
    if not isinstance(model, str) or not 0 < len(model) <= 200:
        raise InvalidRequest("The body needs `model`: the name of a model that the broker offers.")
    if stream is not None and not isinstance(stream, bool):
        raise InvalidRequest("`stream` must be true or false.")
    return Asked(model, bool(stream))


def _names_a_model(tools: object) -> bool:
    items = tools if isinstance(tools, list) else [tools]
    return any(name.casefold() == "model" for item in items if isinstance(item, dict) for name in item)


class UsageCounter:
    """Counts an answer as it passes: bytes, and the tokens that the provider reports. Holds a line at most.

    Reports say what was used so far, so of several the highest counts: one that leaves a part out takes nothing back.

    Args:
        wire: the format of the answer.
        stream: whether the answer is a stream of events; else it is one JSON document.

    Attributes:
        done: the stream has said that it is over.
        failed: the stream has said that it failed.
    """

    def __init__(self, wire: Wire, *, stream: bool) -> None:
        self._wire = wire
        self._stream = stream
        self._kept = bytearray()
        self._overlong = False
        self.size = 0
        self.done = False
        self.failed = False
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    def feed(self, chunk: bytes) -> None:
        """Takes the next piece of the answer."""
        self.size += len(chunk)
        if not self._stream:
            if self.size <= _MAX_WHOLE:
                self._kept += chunk
            return
        whole = chunk.endswith(b"\n") and not self._kept and not self._overlong
        if whole and not self._tells(chunk) and (not self._wire.last_line or self._wire.last_line not in chunk):
            return  # lines of which none is read: most of a stream
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if not self._overlong and len(self._kept) + len(line) <= _MAX_LINE:
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
        if not line.startswith(b"data:"):
            return
        if self._tells(line):
            self._document(line[5:])
        elif self._wire.last_line and line[5:].strip() == self._wire.last_line:
            self.done = True

    def _tells(self, text: bytes) -> bool:
        """Whether a line, or several, may say what was used or that something failed."""
        for word, nothing in self._wire.telling:
            if word in text and text.count(word) > sum(map(text.count, nothing)):
                return True
        return False

    def _document(self, data: bytes) -> None:
        try:
            members = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        if not isinstance(members, dict):
            return
        told = self._wire.told(members)
        if told.input_tokens is not None:
            self.input_tokens = max(told.input_tokens, self.input_tokens or 0)
        if told.output_tokens is not None:
            self.output_tokens = max(told.output_tokens, self.output_tokens or 0)
        if self._stream:
            self.done = self.done or told.done
            self.failed = self.failed or told.failed


def count(value: object) -> int | None:
    """A number of tokens as a provider reports it; None for what is no count."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
