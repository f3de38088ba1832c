"""The answers to outgoing requests: heads and bodies, and what it is called when one does not come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from yarl import URL

from broker.errors import OutboundFailed


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """An answer whose body is still to come.

    Attributes:
        status: 200 to 299 or 400 to 599.
        headers: in their order, names in lower case, both as the bytes that arrived.
        chunks: the body as it arrives, not decompressed; iterating raises `OutboundFailed` when it breaks
            off, stalls or grows too large.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    chunks: AsyncIterator[bytes]

    def header(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name."""
        wanted = name.encode("ascii")
        return next((value.decode("latin-1") for key, value in self.headers if key == wanted), None)


class Chunks:
    """A body, piece by piece as it arrives.

    Args:
        content: where the pieces come from.
        where: the URL for error texts.
        max_bytes: how many may come in all.
    """

    def __init__(self, content: aiohttp.StreamReader, where: str, max_bytes: int) -> None:
        self._content = content
        self._where = where
        self._left = max_bytes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise failure(error, self._where) from None
        if not chunk:
            raise StopAsyncIteration
        self._left -= len(chunk)
        if self._left < 0:
            raise OutboundFailed(f"{self._where} answered with more bytes than are taken.", reason="outbound_too_large")
        return chunk


def failure(error: Exception, where: str) -> OutboundFailed:
    """What an error of the HTTP library means; the text repeats no header, query or body."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return OutboundFailed(
            f"{where} showed a certificate that is not trusted ({error.certificate_error}); "
            "if its authority is your own, name it as an extra CA file.",
            reason="outbound_unreachable",
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error.strerror or type(error.os_error).__name__
        return OutboundFailed(f"{where} could not be reached: {why}.", reason="outbound_unreachable")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return OutboundFailed(f"{where} could not be reached in time.", reason="outbound_unreachable")
    if isinstance(error, TimeoutError):
        return timed_out(where)
    return OutboundFailed(f"{where} broke the connection off ({type(error).__name__}).", reason="outbound_broken")


def timed_out(where: str) -> OutboundFailed:
    """The request was sent, and no answer, or no more of it, came in time."""
    return OutboundFailed(f"{where} took too long to answer.", reason="outbound_timeout")


def where_of(url: URL) -> str:
    """For error texts: the URL without its query, which may hold what nobody else should read."""
    return f"{url.origin()}{url.raw_path}"
