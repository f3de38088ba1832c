"""The one door for outgoing requests, on real sockets."""

from __future__ import annotations

import asyncio
import datetime
import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from broker.errors import ConfigurationError, OutboundFailed, OutboundRefused
from broker.outbound import Outbound, UpstreamResponse
from tests.outbound.upstream import Upstream, http_answer

OK = http_answer(b'{"keys":[]}')

MakeDoor = Callable[..., Outbound]


@pytest.fixture
async def door() -> AsyncIterator[MakeDoor]:
    """Makes doors that are closed after the test."""
    made: list[Outbound] = []

    def make(*allowed: tuple[str, int], **options: Any) -> Outbound:
        made.append(Outbound(allowed, **options))
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def _drained(answer: UpstreamResponse) -> bytes:
    async with asyncio.timeout(10):
        return b"".join([chunk async for chunk in answer.chunks])


def _resolving(*answers: list[str]) -> tuple[Callable[[str, int], Any], list[tuple[str, int]]]:
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


@pytest.fixture
async def connected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Where sockets were told to connect to; none of them is let out."""
    attempts: list[tuple[Any, ...]] = []

    async def sock_connect(sock: object, address: tuple[Any, ...]) -> None:
        attempts.append(address)
        raise ConnectionRefusedError(111, "not in this test")

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", sock_connect)
    return attempts


async def test_a_json_document_comes_with_its_headers(door: MakeDoor) -> None:
    """A 200 with JSON gives the document and the headers by lower-case name."""
    async with Upstream(http_answer(b'{"keys":[1]}', extra="Cache-Control: max-age=60\r\n")) as upstream:
        document, headers = await door(upstream.exception).fetch_json(f"{upstream.origin}/jwks?x=1")
    assert document == {"keys": [1]}
    assert headers["cache-control"] == "max-age=60"
    assert upstream.requests[0].startswith(b"GET /jwks?x=1 HTTP/1.1\r\n")


async def test_the_checked_address_is_the_one_connected_to(door: MakeDoor, connected: list[tuple[Any, ...]]) -> None:
    """DNS rebinding: the name is resolved once, and the socket goes to that answer, not to a later one."""
    resolve, asked = _resolving(["8.8.8.8"], ["127.0.0.1"])
    with pytest.raises(OutboundFailed):
        await door(resolve=resolve).fetch_json("https://rebinding.example/jwks")
    assert connected == [("8.8.8.8", 443)]
    assert asked == [("rebinding.example", 443)]


async def test_nothing_is_connected_to_a_special_use_address(door: MakeDoor, connected: list[tuple[Any, ...]]) -> None:
    """A name that leads inside is refused before a socket is opened."""
    resolve, _ = _resolving(["8.8.8.8", "127.0.0.1"])
    with pytest.raises(OutboundRefused, match="special-use"):
        await door(resolve=resolve).fetch_json("https://inside.example/jwks")
    with pytest.raises(OutboundRefused, match="special-use"):
        async with door(resolve=resolve).open_stream("POST", "https://inside.example/", [], b""):
            pass
    assert connected == []


async def test_every_new_connection_is_checked_again(door: MakeDoor, connected: list[tuple[Any, ...]]) -> None:
    """No answer is remembered: a name that moved inside is refused at its next connection."""
    resolve, _ = _resolving(["8.8.8.8"], ["127.0.0.1"])
    one = door(resolve=resolve)
    with pytest.raises(OutboundFailed):
        await one.fetch_json("https://rebinding.example/jwks")
    with pytest.raises(OutboundRefused, match="special-use"):
        await one.fetch_json("https://rebinding.example/jwks")


async def test_an_exception_opens_no_other_port(door: MakeDoor) -> None:
    """With one loopback port allowed, a second server on the same host is out of reach."""
    async with Upstream(OK) as allowed, Upstream(OK) as other:
        one = door(allowed.exception)
        await one.fetch_json(f"{allowed.origin}/")
        with pytest.raises(OutboundRefused):
            await one.fetch_json(f"{other.origin}/")
        with pytest.raises(OutboundRefused):
            await one.fetch_json(f"https://127.0.0.1:{other.port}/")
    assert other.connections == 0


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent", "304 Not"]
)
async def test_redirects_are_refused(door: MakeDoor, status: str) -> None:
    """A redirect is neither followed nor passed on."""
    async with Upstream(OK) as target:
        away = http_answer(b"", status=status, extra=f"Location: {target.origin}/\r\n")
        async with Upstream(away) as upstream:
            one = door(upstream.exception, target.exception)
            with pytest.raises(OutboundRefused, match="redirects"):
                await one.fetch_json(f"{upstream.origin}/")
            with pytest.raises(OutboundRefused, match="redirects"):
                async with one.open_stream("POST", f"{upstream.origin}/", [], b"{}"):
                    pass
    assert target.connections == 0


async def test_the_environment_names_no_proxy(door: MakeDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY and its kin send nothing elsewhere."""
    async with Upstream(OK) as proxy, Upstream(OK) as upstream:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.origin)
        monkeypatch.setenv("no_proxy", "")
        await door(upstream.exception).fetch_json(f"{upstream.origin}/")
    assert (proxy.connections, upstream.connections) == (0, 1)


async def test_cookies_are_not_kept(door: MakeDoor) -> None:
    """A cookie that an upstream sets is not sent with the next request."""
    async with Upstream(http_answer(b"{}", extra="Set-Cookie: a=b; Path=/\r\n")) as upstream:
        one = door(upstream.exception)
        await one.fetch_json(f"{upstream.origin}/")
        await one.fetch_json(f"{upstream.origin}/")
    assert b"cookie" not in upstream.requests[1].lower()


async def test_a_body_larger_than_the_cap_is_refused_by_what_arrives(door: MakeDoor) -> None:
    """The cap counts bytes as they are read, so an answer that announces no length is cut too."""

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()

    async with Upstream(endless) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            await door(upstream.exception).fetch_json(f"{upstream.origin}/", max_bytes=10_000)
        assert caught.value.reason == "outbound_too_large"
        await asyncio.wait_for(upstream.left.wait(), 5)


async def test_the_cap_is_inclusive(door: MakeDoor) -> None:
    """A body of exactly the cap is taken, one byte more is not."""
    async with Upstream(http_answer(b'"' + b"x" * 98 + b'"')) as upstream:
        one = door(upstream.exception)
        assert (await one.fetch_json(f"{upstream.origin}/", max_bytes=100))[0] == "x" * 98
        with pytest.raises(OutboundFailed):
            await one.fetch_json(f"{upstream.origin}/", max_bytes=99)


async def test_a_body_that_drips_is_out_of_time(door: MakeDoor) -> None:
    """The time limit of a document covers all of it: bytes that keep coming do not extend it."""

    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with Upstream(dripping) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            await asyncio.wait_for(door(upstream.exception).fetch_json(f"{upstream.origin}/", timeout_s=0.3), 5)
        assert caught.value.reason == "outbound_timeout"


@pytest.mark.parametrize("content_type", ["text/html", "application/xml", "application/jsonx", "text/json", None])
async def test_only_json_is_taken_for_json(door: MakeDoor, content_type: str | None) -> None:
    """A document that does not say it is JSON is refused, whatever its bytes look like."""
    async with Upstream(http_answer(b"{}", content_type=content_type)) as upstream:
        with pytest.raises(OutboundFailed, match="application/json"):
            await door(upstream.exception).fetch_json(f"{upstream.origin}/")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/jwk-set+json", "Application/JSON"]
)
async def test_kinds_of_json_are_json(door: MakeDoor, content_type: str) -> None:
    """Parameters, structured suffixes and letter case do not matter (RFC 6839 §3.1)."""
    async with Upstream(http_answer(b"{}", content_type=content_type)) as upstream:
        assert (await door(upstream.exception).fetch_json(f"{upstream.origin}/"))[0] == {}


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a":2}', b"NaN", b"\xff"])
async def test_a_document_is_parsed_strictly(door: MakeDoor, body: bytes) -> None:
    """Broken JSON, and JSON that two parsers would read differently, is a failure of the upstream."""
    async with Upstream(http_answer(body)) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            await door(upstream.exception).fetch_json(f"{upstream.origin}/")
        assert caught.value.reason == "outbound_not_json"


async def test_a_compressed_document_is_refused(door: MakeDoor) -> None:
    """Identity is asked for, and a compressed answer is not unpacked: no small body grows past the cap."""
    packed = http_answer(gzip.compress(b"{}"), extra="Content-Encoding: gzip\r\n")
    async with Upstream(packed) as upstream:
        with pytest.raises(OutboundFailed, match="compressed"):
            await door(upstream.exception).fetch_json(f"{upstream.origin}/")
    assert b"accept-encoding: identity" in upstream.requests[0].lower()


@pytest.mark.parametrize("status", ["201 Created", "204 No Content", "404 Not Found", "500 Oops"])
async def test_a_document_comes_with_200(door: MakeDoor, status: str) -> None:
    """Any other status is a failure, even with a JSON body."""
    async with Upstream(http_answer(b"" if status[:3] == "204" else b"{}", status=status)) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            await door(upstream.exception).fetch_json(f"{upstream.origin}/")
        assert caught.value.reason == "outbound_status"


async def test_a_stream_sends_what_the_caller_chose_and_nothing_more(door: MakeDoor) -> None:
    """Headers and body go out as given, with Host, length and identity encoding; no user agent of ours."""
    async with Upstream(http_answer(b"done", content_type="text/plain", extra="X-A: 1\r\nX-A: 2\r\n")) as upstream:
        headers = [("Authorization", "Bearer key"), ("Content-Type", "application/json")]
        async with door(upstream.exception).open_stream(
            "POST", f"{upstream.origin}/v1/x", headers, b'{"a":1}'
        ) as answer:
            assert answer.status == 200
            assert [value for name, value in answer.headers if name == b"x-a"] == [b"1", b"2"]
            assert answer.header("content-type") == "text/plain"
            assert await _drained(answer) == b"done"
    head, _, body = upstream.requests[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/x HTTP/1.1"
    assert {line.split(":")[0].lower() for line in lines[1:]} == {
        "host",
        "authorization",
        "content-type",
        "accept-encoding",
        "content-length",
    }
    assert body == b'{"a":1}'


async def test_a_large_body_goes_out_whole(door: MakeDoor) -> None:
    """A body of megabytes arrives with its length and every byte."""
    body = bytes(range(256)) * 10_000
    async with (
        Upstream(OK) as upstream,
        door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [], body) as answer,
    ):
        assert answer.status == 200
    assert upstream.requests[0].endswith(body)
    assert f"content-length: {len(body)}" in upstream.requests[0][:500].decode("latin-1").lower()


@pytest.mark.parametrize("name", ["Host", "Content-Length", "Transfer-Encoding", "Connection", "Proxy-Authorization"])
async def test_headers_that_frame_the_request_are_the_doors_own(door: MakeDoor, name: str) -> None:
    """Neither another Host nor another length can be smuggled past the guard."""
    async with Upstream(OK) as upstream:
        with pytest.raises(OutboundRefused, match=name.lower()):
            async with door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [(name, "1")], b"{}"):
                pass
    assert upstream.requests == []


async def test_a_line_break_in_a_header_is_refused(door: MakeDoor) -> None:
    """A header value cannot start another header, and the refusal does not repeat the value."""
    async with Upstream(OK) as upstream:
        with pytest.raises(OutboundRefused) as caught:
            async with door(upstream.exception).open_stream(
                "POST", f"{upstream.origin}/", [("X-Key", "secret\r\nHost: evil")], b""
            ):
                pass
    assert "secret" not in caught.value.detail
    assert caught.value.__cause__ is None
    assert upstream.requests == []


async def test_chunks_come_as_they_arrive(door: MakeDoor) -> None:
    """The first piece is there before the second is sent; an upstream's error status comes through too."""
    proceed = asyncio.Event()

    async def in_two(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 429 Slow Down\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await proceed.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with (
        Upstream(in_two) as upstream,
        door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [], b"") as answer,
    ):
        assert answer.status == 429
        chunks = aiter(answer.chunks)
        assert await anext(chunks) == b"one"
        proceed.set()
        assert await anext(chunks) == b"two"
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_a_stream_is_not_unpacked(door: MakeDoor) -> None:
    """Bytes travel as they came, so nobody's small body becomes our large one."""
    packed = gzip.compress(b"hello")
    async with (
        Upstream(http_answer(packed, extra="Content-Encoding: gzip\r\n")) as upstream,
        door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [], b"") as answer,
    ):
        assert await _drained(answer) == packed


async def _endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"3\r\none\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def test_leaving_a_stream_early_closes_it(door: MakeDoor) -> None:
    """The upstream notices at once that nobody listens any more, and the connection is not used again."""
    async with Upstream(_endless_chunks) as upstream:
        one = door(upstream.exception)
        async with one.open_stream("POST", f"{upstream.origin}/", [], b"") as answer:
            await anext(aiter(answer.chunks))
        await asyncio.wait_for(upstream.left.wait(), 5)
        async with one.open_stream("POST", f"{upstream.origin}/", [], b""):
            pass
    assert upstream.connections == 2


async def test_a_cancelled_caller_closes_its_stream(door: MakeDoor) -> None:
    """Cancelling the task that reads has the same effect as leaving."""
    async with Upstream(_endless_chunks) as upstream:
        started = asyncio.Event()

        async def read() -> None:
            async with door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [], b"") as answer:
                async for _ in answer.chunks:
                    started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_finished_stream_leaves_its_connection_to_the_next(door: MakeDoor) -> None:
    """Requests to one origin one after the other share a connection, which is resolved and checked once."""
    resolve, asked = _resolving(["127.0.0.1"])
    async with Upstream(OK) as upstream:
        one = door(("upstream.example", upstream.port), resolve=resolve)
        for _ in range(3):
            async with one.open_stream("POST", f"http://upstream.example:{upstream.port}/", [], b"{}") as answer:
                assert await _drained(answer)
    assert (upstream.connections, len(upstream.requests), len(asked)) == (1, 3, 1)
    assert f"host: upstream.example:{upstream.port}" in upstream.requests[0].decode().lower()


async def test_a_silent_upstream_is_out_of_time(door: MakeDoor) -> None:
    """No head within the first-byte limit is a timeout, told apart from an unreachable upstream."""

    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with Upstream(silent) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            async with door(upstream.exception).open_stream(
                "POST", f"{upstream.origin}/", [], b"", first_byte_timeout_s=0.05
            ):
                pass
        assert caught.value.reason == "outbound_timeout"
        await asyncio.wait_for(upstream.left.wait(), 5)


async def test_a_dripping_head_is_out_of_time(door: MakeDoor) -> None:
    """A head that comes byte by byte does not extend the first-byte limit for ever."""

    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.005)

    async with Upstream(dripping) as upstream:
        with pytest.raises(OutboundFailed) as caught:
            async with door(upstream.exception).open_stream(
                "POST", f"{upstream.origin}/", [], b"", connect_timeout_s=0.3, first_byte_timeout_s=0.05
            ):
                pass
        assert caught.value.reason == "outbound_timeout"


async def test_a_stalled_stream_is_out_of_time(door: MakeDoor) -> None:
    """The idle limit holds between chunks, however generous the limit of the first byte was."""

    async def stalling(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        await asyncio.Event().wait()

    async with Upstream(stalling) as upstream:
        async with door(upstream.exception).open_stream(
            "POST", f"{upstream.origin}/", [], b"", first_byte_timeout_s=60, idle_timeout_s=0.2
        ) as answer:
            chunks = aiter(answer.chunks)
            assert await anext(chunks) == b"one"
            with pytest.raises(OutboundFailed) as caught:
                await asyncio.wait_for(anext(chunks), 5)
        assert caught.value.reason == "outbound_timeout"


async def test_a_stream_has_a_total_limit_where_one_is_given(door: MakeDoor) -> None:
    """A stream that never pauses ends at its total limit."""
    async with Upstream(_endless_chunks) as upstream:
        async with door(upstream.exception).open_stream(
            "POST", f"{upstream.origin}/", [], b"", total_timeout_s=0.3
        ) as answer:
            with pytest.raises(OutboundFailed) as caught:
                await _drained(answer)
        assert caught.value.reason == "outbound_timeout"


async def test_a_stream_has_a_size_limit(door: MakeDoor) -> None:
    """A stream that grows past its cap is cut while it is read."""
    async with Upstream(_endless_chunks) as upstream:
        async with door(upstream.exception).open_stream(
            "POST", f"{upstream.origin}/", [], b"", max_bytes=3000
        ) as answer:
            with pytest.raises(OutboundFailed) as caught:
                await _drained(answer)
        assert caught.value.reason == "outbound_too_large"


async def test_a_stream_that_breaks_off_is_an_error(door: MakeDoor) -> None:
    """A body cut short never looks like a body that ended."""

    async def breaking(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await writer.drain()
        raise ConnectionError

    async with Upstream(breaking) as upstream:
        async with door(upstream.exception).open_stream("POST", f"{upstream.origin}/", [], b"") as answer:
            with pytest.raises(OutboundFailed) as caught:
                await _drained(answer)
        assert caught.value.reason == "outbound_broken"


async def test_an_unreachable_upstream_says_so(door: MakeDoor) -> None:
    """A refused connection and an unknown name are `outbound_unreachable`: nothing was sent."""
    async with Upstream(OK) as upstream:
        pass
    resolve, _ = _resolving([])
    one = door(upstream.exception, resolve=resolve)
    for url in (f"{upstream.origin}/v1?key=planted", "https://nowhere.example/v1?key=planted"):
        with pytest.raises(OutboundFailed) as caught:
            async with one.open_stream("POST", url, [("Authorization", "planted")], b""):
                pass
        assert caught.value.reason == "outbound_unreachable"
        assert "planted" not in caught.value.detail
        assert caught.value.__cause__ is None


async def test_a_connection_that_hangs_is_out_of_time(door: MakeDoor) -> None:
    """Resolving counts to the connect limit: a name server that never answers does not hold the caller."""

    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(OutboundFailed) as caught:
        async with door(resolve=hanging).open_stream("POST", "https://slow.example/", [], b"", connect_timeout_s=0.05):
            pass
    assert caught.value.reason == "outbound_unreachable"


def _certificates(folder: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """An authority of its own (its PEM file) and a server certificate under it."""

    def issue(
        subject: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        signer: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
    ) -> x509.Certificate:
        named = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (subject, issuer)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(named[0])
            .issuer_name(named[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
            .not_valid_after(datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if not ca:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(subject)]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    authority, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = issue("test authority", authority, "test authority", authority, ca=True)
    certificate = issue(name, leaf, "test authority", authority, ca=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        certificate.public_bytes(pem)
        + leaf.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context


async def test_certificates_are_verified(door: MakeDoor, tmp_path: Path) -> None:
    """An unknown authority and a certificate for another name are refused; the extra authority is trusted."""
    authority, tls = _certificates(tmp_path, "upstream.example")
    resolve, _ = _resolving(["127.0.0.1"])
    async with Upstream(OK, tls=tls) as upstream:
        names = (("upstream.example", upstream.port), ("other.example", upstream.port))
        trusting = door(*names, resolve=resolve, extra_ca_file=authority)
        assert (await trusting.fetch_json(f"https://upstream.example:{upstream.port}/"))[0] == {"keys": []}
        with pytest.raises(OutboundFailed, match="certificate"):
            await trusting.fetch_json(f"https://other.example:{upstream.port}/")
        with pytest.raises(OutboundFailed, match="certificate"):
            await door(*names, resolve=resolve).fetch_json(f"https://upstream.example:{upstream.port}/")
    assert len(upstream.requests) == 1


def test_an_unreadable_authority_is_refused_at_start(tmp_path: Path) -> None:
    """A missing or empty CA file stops the start instead of weakening or breaking requests later."""
    (tmp_path / "empty.pem").write_text("")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigurationError, match=name):
            Outbound(extra_ca_file=tmp_path / name)
