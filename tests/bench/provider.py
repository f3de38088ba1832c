"""The stand-in provider: an OpenAI endpoint that answers what it has ready, as cheaply as Python can.

A streamed answer is `PIECES` events in the provider's shape, each written alone with a pause before the next, so that
whoever relays them must do so one by one.
"""

from __future__ import annotations

import asyncio
import json
import re

import uvloop

from tests.bench.processes import end_with_parent, tell

KEY = "sk-bench-not-a-secret"
PIECES = 20
PAUSE_S = 0.001

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_AUTHORIZED = f"bearer {KEY}".encode()
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"
_ID = "chatcmpl-" + "b" * 24
_USAGE = {"prompt_tokens": 180, "completion_tokens": PIECES - 2, "total_tokens": 178 + PIECES}


def _event(delta: dict[str, str], finish: str | None, usage: dict[str, int] | None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": _ID,
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": "bench-small",
        "system_fingerprint": "fp_bench",
        "choices": [] if usage else [choice],
        "usage": usage,
    }
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def _pieces() -> list[bytes]:
    events = [_event({"content": f" word{number}"}, None, None) for number in range(PIECES - 2)]
    events.append(_event({}, "stop", None) + _event({}, None, _USAGE))
    events.append(b"data: [DONE]\n\n")
    return [b"%x\r\n%b\r\n" % (len(event), event) for event in events]


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word " * (PIECES - 2), "refusal": None}
    completion = {
        "id": _ID,
        "object": "chat.completion",
        "created": 1_750_000_000,
        "model": "bench-small",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
    body = json.dumps(completion).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENTS = _pieces()
_WHOLE = _whole()


class Provider(asyncio.Protocol):
    """One connection; one request after the other."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvloop's is none of asyncio's
        """Somebody calls."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Answers once the request is whole."""
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, end) if end >= 0 else None
        if length is None or len(self._received) < end + 4 + int(length[1]):
            return
        request, self._received = self._received, b""
        if _AUTHORIZED not in request[:end].lower():
            self._transport.write(_REFUSED)
        elif b'"stream":true' in request:
            self._transport.write(_HEAD)
            self._stream(0)
        else:
            self._transport.write(_WHOLE)

    def _stream(self, place: int) -> None:
        if self._transport.is_closing():
            return
        if place == PIECES - 1:
            self._transport.write(_EVENTS[place] + b"0\r\n\r\n")
            return
        self._transport.write(_EVENTS[place])
        self._loop.call_later(PAUSE_S, self._stream, place + 1)


async def serve() -> None:
    """Listens on a free port of loopback, and says which."""
    server = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
    tell(port=server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    end_with_parent()
    uvloop.run(serve())
