"""Outgoing requests: JSON documents that others publish, and the streams to model endpoints.

Every request passes the guard, follows no redirect, sends no cookie, asks no environment variable for a
proxy, and is bounded in time and size while it is read. Connections stay open per origin: a pooled one was
checked when it was opened.
"""

from __future__ import annotations

import asyncio
import copy
import io
import socket
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from broker.errors import ConfigurationError, Malformed, OutboundFailed, OutboundRefused
from broker.formats import canonical_json
from broker.outbound.addresses import Guard, Resolve, system_resolve
from broker.outbound.answers import Chunks, UpstreamResponse, failure, timed_out, where_of

DEFAULT_MAX_STREAM_BYTES = 128 * 1024 * 1024

_OWN_HEADERS = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "upgrade",
        "te",
        "trailer",
        "expect",
    }
    | {"proxy-authorization", "proxy-connection"}
)
_NO_AUTOMATIC_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
_LARGE_BODY_BYTES = 512 * 1024


class Outbound:
    """The door. One per process and event loop; `close()` it at the end.

    Args:
        allowed: exceptions by exact host and port, where plain http and special-use addresses are accepted.
        resolve: how names become addresses; the machine's resolver unless given.
        extra_ca_file: certificate authorities in PEM to trust beside the system's.
        max_connections: how many may be open at once; more wait, within their connect timeout.

    Raises:
        ConfigurationError: `extra_ca_file` cannot be read as certificates.
    """

    def __init__(
        self,
        allowed: Iterable[tuple[str, int]] = (),
        *,
        resolve: Resolve = system_resolve,
        extra_ca_file: Path | None = None,
        max_connections: int = 1024,
    ) -> None:
        self._guard = Guard(allowed, resolve)
        self._tls = ssl.create_default_context()
        if extra_ca_file is not None:
            try:
                self._tls.load_verify_locations(cafile=extra_ca_file)
            except OSError as error:  # ssl.SSLError is one
                raise ConfigurationError(f"{extra_ca_file}: no PEM certificates could be read: {error}") from error
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    def apart(self, max_connections: int) -> Outbound:
        """A door of the same rules with connections of its own: what waits at one takes none from the other."""
        other = copy.copy(self)
        other._max_connections, other._session = max_connections, None
        return other

    async def fetch_json(
        self, url: str, *, max_bytes: int = 262_144, timeout_s: float = 5.0
    ) -> tuple[object, dict[str, str]]:
        """Gets a JSON document; the time limit covers all of it, from resolving to the last byte.

        Returns:
            The document, parsed strictly, and the answer's headers by lower-case name (the first of repeated
            ones).

        Raises:
            OutboundRefused: the guard refuses the URL or its addresses, or the answer is a redirect.
            OutboundFailed: anything else than a 200 with a JSON body of at most `max_bytes`, in time.
        """
        accept = [("Accept", "application/json"), ("User-Agent", "broker")]
        where = where_of(self._guard.admit(url))
        try:
            async with (
                asyncio.timeout(timeout_s),
                self.open_stream(
                    "GET",
                    url,
                    accept,
                    b"",
                    connect_timeout_s=timeout_s,
                    first_byte_timeout_s=timeout_s,
                    idle_timeout_s=timeout_s,
                    max_bytes=max_bytes,
                ) as answer,
            ):
                _check_json_answer(answer, where)
                body = b"".join([chunk async for chunk in answer.chunks])
        except TimeoutError:
            raise timed_out(where) from None
        headers: dict[str, str] = {}
        for name, value in answer.headers:
            headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        try:
            return canonical_json.parse(body, max_bytes=max_bytes), headers
        except Malformed as error:
            raise OutboundFailed(
                f"{where} answered with JSON that is not: {error.detail}", reason="outbound_not_json"
            ) from error

    @asynccontextmanager
    async def open_stream(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        *,
        connect_timeout_s: float = 5.0,
        first_byte_timeout_s: float = 60.0,
        idle_timeout_s: float = 60.0,
        total_timeout_s: float | None = None,
        max_bytes: int = DEFAULT_MAX_STREAM_BYTES,
    ) -> AsyncIterator[UpstreamResponse]:
        """Sends a request and gives its answer while the body arrives.

        Leaving the block before the body's end closes the connection at once; otherwise it goes back to the
        pool. A POST is never sent twice, not even when a pooled connection turns out to be dead (RFC 9112
        §9.3.1).

        Args:
            method: the HTTP method.
            url: passed through the guard.
            headers: what the caller chose; `Accept-Encoding: identity` is added when they name no encoding.
            body: sent whole, with its length.
            connect_timeout_s: resolving, connecting and TLS, or waiting for a place in the pool.
            first_byte_timeout_s: from the connection to the end of the answer's head.
            idle_timeout_s: between two chunks of the body.
            total_timeout_s: for everything; no limit unless given.
            max_bytes: of the body.

        Raises:
            OutboundRefused: the guard refuses the URL or its addresses, the answer is a redirect or an
                upgrade, or `headers` holds a field that frames the message or names the host.
            OutboundFailed: `reason` tells `outbound_unreachable` (nothing was sent) from `outbound_timeout`,
                `outbound_broken` and, in the body, `outbound_too_large`.
        """
        target = self._guard.admit(url)
        where = where_of(target)
        sent = _checked_headers(headers)
        limits = aiohttp.ClientTimeout(
            total=total_timeout_s,
            connect=connect_timeout_s,
            sock_connect=connect_timeout_s,
            sock_read=first_byte_timeout_s,
        )
        try:
            # sock_read starts anew with every byte of the head; the outer limit does not.
            async with asyncio.timeout(connect_timeout_s + first_byte_timeout_s):
                response = await self._opened().request(
                    method,
                    target,
                    headers=sent,
                    data=body if len(body) <= _LARGE_BODY_BYTES else io.BytesIO(body),
                    allow_redirects=False,
                    timeout=limits,
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Not chained: the library's errors hold the request's headers, and with them the provider's key.
            raise failure(error, where) from None
        except ValueError:
            raise OutboundRefused("A header holds a line break or another character that headers cannot.") from None
        try:
            if not (200 <= response.status < 300 or response.status >= 400):
                raise OutboundRefused(
                    f"{where} answered {response.status}, and redirects are not followed: "
                    "configure the URL where they end."
                )
            if response.connection is not None and response.connection.protocol is not None:
                response.connection.protocol.read_timeout = idle_timeout_s
                response.connection.protocol.start_timeout()
            yield UpstreamResponse(
                response.status,
                tuple((name.lower(), value) for name, value in response.raw_headers),
                Chunks(response.content, where, max_bytes),
            )
        finally:
            _leave(response)

    async def reach(self, url: str, *, timeout_s: float = 5.0) -> str:
        """Connects to where a URL is, with TLS for https, and hangs up without a word; gives the address.

        Raises:
            OutboundRefused: the guard refuses the URL or its addresses.
            OutboundFailed: nobody answers, or whoever does shows no certificate that is trusted.
        """
        target = self._guard.admit(url)
        where, host, port = where_of(target), target.raw_host or "", target.port or 0
        tls = self._tls if target.scheme == "https" else None
        try:
            async with asyncio.timeout(timeout_s):
                address = (await self._guard.addresses(host, port))[0]
                name = host if tls is not None else None
                _, writer = await asyncio.open_connection(address, port, ssl=tls, server_hostname=name)
        except TimeoutError:
            raise OutboundFailed(f"{where} could not be reached in time.", reason="outbound_unreachable") from None
        except ssl.SSLError as error:
            why = getattr(error, "verify_message", "") or error.reason or "TLS failed"
            raise OutboundFailed(f"{where} is not trusted: {why}.", reason="outbound_unreachable") from error
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise OutboundFailed(f"{where} could not be reached: {why}.", reason="outbound_unreachable") from error
        writer.transport.abort()
        return address

    async def close(self) -> None:
        """Closes every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                resolver=_CheckedResolver(self._guard),
                use_dns_cache=False,  # a cache would hold addresses beyond the check that let them in
                ssl=self._tls,
                limit=self._max_connections,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                skip_auto_headers=_NO_AUTOMATIC_HEADERS,
            )
        return self._session


class _CheckedResolver(AbstractResolver):
    """Where the connector gets its addresses: it connects to these and asks nobody else."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The checked addresses of a name; the guard's errors pass through the connector unchanged."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._guard.addresses(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


def _leave(response: aiohttp.ClientResponse) -> None:
    """Gives a finished connection back, and cuts one that is not, without waiting for any goodbye."""
    if response.connection is not None and response.connection.transport is not None:
        response.connection.transport.abort()
    response.close()


def _checked_headers(headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = {name.lower() for name, _ in headers}
    if own := sorted(names & _OWN_HEADERS):
        raise OutboundRefused(f"The door sets {', '.join(own)} itself; leave it out of the request's headers.")
    return [*headers] if "accept-encoding" in names else [*headers, ("Accept-Encoding", "identity")]


def _check_json_answer(answer: UpstreamResponse, where: str) -> None:
    if answer.status != 200:
        raise OutboundFailed(f"{where} answered {answer.status} where 200 was due.", reason="outbound_status")
    kind = (answer.header("content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise OutboundFailed(f"{where} did not answer with application/json.", reason="outbound_not_json")
    if (answer.header("content-encoding") or "identity").lower() != "identity":
        raise OutboundFailed(f"{where} compressed its answer though it was asked not to.", reason="outbound_not_json")
