"""A server on real sockets whose bytes a test chooses itself, so that it can also misbehave."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Self

Answer = Callable[[asyncio.StreamWriter], Coroutine[None, None, None]]


class Upstream:
    """Listens on loopback, reads whole requests, and lets `answer` write what comes back.

    Args:
        answer: the bytes of every answer, or a function that writes them.
        host: the loopback address to listen on.
        port: 0 for any.
        tls: the server's TLS, none unless given.
    """

    def __init__(
        self,
        answer: bytes | Answer,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._answer = answer
        self._host = host
        self._tls = tls
        self._handlers: set[asyncio.Task[None]] = set()
        self.port = port
        self.connections = 0
        self.requests: list[bytes] = []
        self.left = asyncio.Event()

    @property
    def origin(self) -> str:
        """Where it listens, for URLs."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"

    @property
    def exception(self) -> tuple[str, int]:
        """What to allow so that it may be reached."""
        return (self._host, self.port)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.partition(b":")[2])
                        for line in head.lower().split(b"\r\n")
                        if b"content-length:" in line
                    ),
                    0,
                )
                self.requests.append(head + await reader.readexactly(length))
                if isinstance(self._answer, bytes):
                    writer.write(self._answer)
                    await writer.drain()
                elif not await self._answered(self._answer(writer), reader):
                    break
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass  # the client left, or the test is over
        finally:
            self.left.set()
            self._handlers.discard(task)
            writer.transport.abort()

    @staticmethod
    async def _answered(answer: Coroutine[None, None, None], reader: asyncio.StreamReader) -> bool:
        """Lets an answer be written until the client leaves; whether it was written to its end."""
        writing, leaving = asyncio.create_task(answer), asyncio.create_task(reader.read(1))
        try:
            done, _ = await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            if writing in done:
                await writing
            return writing in done
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)


def http_answer(
    body: bytes, *, status: str = "200 OK", content_type: str | None = "application/json", extra: str = ""
) -> bytes:
    """An answer with its length; `extra` is further header lines, each with its line break."""
    kind = "" if content_type is None else f"Content-Type: {content_type}\r\n"
    return f"HTTP/1.1 {status}\r\n{kind}{extra}Content-Length: {len(body)}\r\n\r\n".encode() + body
