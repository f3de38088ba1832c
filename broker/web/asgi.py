"""The little that the hot routes need of ASGI, without a framework, which would cost more than all else they do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from broker.errors import InvalidRequest, TooLarge
from broker.tokens.bearer import Presented
from broker.web.errors import Headers, Shown

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientLeft(Exception):
    """The client closed the connection before its request was whole."""


async def read_body(
    scope: Scope,
    receive: Receive,
    *,
    max_bytes: int,
    timeout_s: float,
    reserve: Callable[[int], None] = lambda _size: None,
) -> bytes:
    """The request's whole body; `reserve` is told the size of each piece before it is kept, and may refuse.

    Raises:
        TooLarge: more than `max_bytes`, announced or sent.
        InvalidRequest: it did not arrive within `timeout_s`.
        ClientLeft: there is nobody to answer.
    """
    announced = header(scope, b"content-length")
    if announced is not None and (not announced.isdigit() or len(announced) > 15 or int(announced) > max_bytes):
        raise TooLarge(f"The body may be at most {max_bytes} bytes.")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                part = message.get("body", b"")
                size += len(part)
                if size > max_bytes:
                    raise TooLarge(f"The body may be at most {max_bytes} bytes.")
                reserve(len(part))
                parts.append(part)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise InvalidRequest(f"The body did not arrive within {timeout_s:g} seconds.") from None


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header field."""
    return next((value for key, value in scope["headers"] if key == name), None)


def values(scope: Scope, name: bytes) -> tuple[str, ...]:
    """Every value of a header field."""
    return tuple(value.decode("latin-1") for key, value in scope["headers"] if key == name)


def presented(scope: Scope) -> Presented:
    """The credentials of a request. The path is the one that it was routed on, never a Host header."""
    raw = scope.get("raw_path") or str(scope["path"]).encode()
    path = raw.partition(b"?")[0].decode("latin-1")
    return Presented(values(scope, b"authorization"), values(scope, b"dpop"), scope["method"], path)


def source(scope: Scope, trusted_proxy: str | None) -> str:
    """The client's address: the socket's, or what the one named proxy says of it (its last X-Forwarded-For).

    A request of the proxy that says nothing comes from nobody knows where, and never from the proxy's own machine.
    """
    client = scope.get("client")
    address = str(client[0]) if client else "unknown"
    if trusted_proxy is not None and address == trusted_proxy:
        forwarded = ",".join(values(scope, b"x-forwarded-for")).rpartition(",")[2].strip()
        return forwarded[:64] or "unknown"
    return address


def stamped(send: Send, request_id: str) -> Send:
    """Sends answers that no cache keeps and that carry the request's id, unless they say otherwise themselves."""

    async def send_stamped(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            said = {name.lower() for name, _ in headers}
            stamps = ((b"cache-control", b"no-store"), (b"x-request-id", request_id.encode()))
            message["headers"] = [*headers, *(stamp for stamp in stamps if stamp[0] not in said)]
        await send(message)

    return send_stamped


async def send_bytes(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Sends a whole answer."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_shown(send: Send, shown: Shown) -> None:
    """Sends an error."""
    await send_bytes(send, shown.status, shown.headers, shown.body)
