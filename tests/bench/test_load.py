"""The load generator: it knows where an answer ends, and takes nothing but success for success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from tests.bench.load import LoadFailed, drive

_WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


class _Answers(asyncio.Protocol):
    """Answers every read with the same pieces, each written alone, and may hang up after the first answer."""

    def __init__(self, pieces: Sequence[bytes], hangs_up: bool, open_ones: list[asyncio.Transport]) -> None:
        self._pieces = pieces
        self._hangs_up = hangs_up
        self._open_ones = open_ones

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_ones.append(transport)

    def data_received(self, data: bytes) -> None:
        self._write(0)

    def _write(self, place: int) -> None:
        if place < len(self._pieces):
            self._transport.write(self._pieces[place])
            asyncio.get_running_loop().call_soon(self._write, place + 1)
        elif self._hangs_up:
            self._transport.close()


@asynccontextmanager
async def _answering(pieces: Sequence[bytes], *, hangs_up: bool = False) -> AsyncIterator[int]:
    open_ones: list[asyncio.Transport] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: _Answers(pieces, hangs_up, open_ones), "127.0.0.1", 0
    )
    async with server:
        yield int(server.sockets[0].getsockname()[1])
        for transport in open_ones:
            transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("answer", [_WHOLE, _CHUNKED])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_every_request_is_answered_once_and_whole(answer: bytes, size: int) -> None:
    """However an answer is cut into pieces, and with more requests than connections."""
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    async with _answering(pieces) as port:
        driven = await drive(port, [b"request."] * 5, 2, keep=True)
    assert driven.bodies == dict.fromkeys(range(5), answer)
    assert len(driven.latencies_s) == 5


async def test_an_answer_that_is_no_success_fails_the_run() -> None:
    """A refusal is fast; it must not count."""
    async with _answering([b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n"]) as port:
        with pytest.raises(LoadFailed, match="401 Unauthorized"):
            await drive(port, [b"request."] * 5, 2)


async def test_a_lost_connection_fails_the_run() -> None:
    """What was not answered is not left out of the count."""
    async with _answering([b"HTTP/1.1 200 OK\r\n"], hangs_up=True) as port:
        with pytest.raises(LoadFailed, match="connection was lost"):
            await drive(port, [b"request."], 1)
