"""uvicorn's HTTP protocol with the bounds that it leaves to a proxy: how large a request's head may be, and how slow.

A stranger costs at most 64 KiB and ten seconds before the application sees the request.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line with its header fields, or of what trails a chunked body; what one read brought is taken whole."""

HEAD_TIMEOUT_S = 10.0
"""From the connection, or from a request's first byte, to the end of its head."""

MAX_PIPELINED = 16
"""Requests that wait on one connection for the answer to an earlier one."""

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """Cuts connections whose request head is endless. Give the class to uvicorn as `http`."""

    _unparsed = 0
    _begun = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has connected."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come: those that ended neither a head nor a piece of a body count against the bound."""
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES and not self.transport.is_closing():
            if not self._begun or self.cycle.response_complete:
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._wait_for_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head has come whole."""
        self._stop_waiting()
        self._unparsed = 0
        if len(self.pipeline) >= MAX_PIPELINED:
            self.transport.close()
            return
        super().on_headers_complete()
        self._begun = True
        self.headers = []  # what trails the body is no header field of the request

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has come whole."""
        self._unparsed = 0
        super().on_message_complete()

    def _wait_for_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.close()
