"""Requests byte by byte, where an HTTP client would not send what a test wants to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came: status, header fields by lower-case name, and the rest."""

    status: int
    headers: dict[str, str]
    rest: bytes


async def send(port: int, data: bytes, *, wait_s: float = 10) -> RawAnswer | None:
    """Sends bytes on a new connection and gives what comes back until it closes; None if nothing does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(wait_s):
            whole = await reader.read(-1)
    except ConnectionError:
        return None
    finally:
        writer.close()
    if not whole:
        return None
    head, _, rest = whole.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    named = (field.partition(":") for field in fields)
    return RawAnswer(int(line.split(" ")[1]), {name.lower(): value.strip() for name, _, value in named}, rest)


def request(method: str, target: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request whose connection ends with its answer."""
    fields = {"Host": "x", **headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body
