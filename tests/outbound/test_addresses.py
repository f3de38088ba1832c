"""The guard of the one door: what may be reached, known before anything is sent."""

from __future__ import annotations

import ipaddress

import pytest

from broker.errors import OutboundRefused
from broker.outbound.addresses import Guard, is_public

SPECIAL = [
    "0.0.0.0",
    "10.1.2.3",
    "100.100.100.200",
    "127.0.0.1",
    "127.8.9.10",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "100::1",
    "2001::7f00:1",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "2606:4700::1%eth0",
]
PUBLIC = ["8.8.8.8", "172.15.255.255", "172.32.0.0", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


async def _never(host: str, port: int) -> list[str]:
    raise AssertionError(f"{host}:{port} was looked up")


def _guard(*allowed: tuple[str, int]) -> Guard:
    return Guard(allowed, _never)


def _answering(*answers: str, allowed: tuple[tuple[str, int], ...] = ()) -> Guard:
    async def resolve(host: str, port: int) -> list[str]:
        return list(answers)

    return Guard(allowed, resolve)


@pytest.mark.parametrize("address", SPECIAL)
def test_special_use_addresses_are_not_public(address: str) -> None:
    """Loopback, private, link-local, multicast, reserved and embedding addresses never count as public."""
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_unicast_addresses_are_public(address: str) -> None:
    """Ordinary addresses do, also beside a private range, mapped, or behind a NAT64 gateway."""
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", SPECIAL)
async def test_a_name_with_a_special_use_address_is_refused(address: str) -> None:
    """A name that resolves to a special-use address is refused, not connected to."""
    with pytest.raises(OutboundRefused, match="special-use"):
        await _answering(address).addresses("keys.example", 443)


async def test_one_special_use_address_among_public_ones_refuses_the_name() -> None:
    """A public address in front of a private one is no way in: connecting would fall back to the second."""
    with pytest.raises(OutboundRefused, match="special-use"):
        await _answering("8.8.8.8", "10.0.0.1").addresses("keys.example", 443)


async def test_a_public_name_gives_exactly_its_addresses() -> None:
    """What was checked is what is handed on, in canonical form."""
    assert await _answering("8.8.8.8", "2606:4700:0:0::1111").addresses("keys.example", 443) == [
        "8.8.8.8",
        "2606:4700::1111",
    ]


@pytest.mark.parametrize("answers", [(), ("not-an-address",), ("127.1",)])
async def test_a_name_without_a_proper_address_cannot_be_reached(answers: tuple[str, ...]) -> None:
    """An empty answer, or one that is no canonical address, is a failure and never reaches the connector."""
    with pytest.raises(OSError, match="no address"):
        await _answering(*answers).addresses("keys.example", 443)


async def test_an_exception_opens_one_host_and_port() -> None:
    """An allowed host and port may be at a special-use address; the same host on another port may not."""
    guard = _answering("10.0.0.1", allowed=(("Inside.example", 8443),))
    assert await guard.addresses("inside.example", 8443) == ["10.0.0.1"]
    with pytest.raises(OutboundRefused, match="special-use"):
        await guard.addresses("inside.example", 443)
    with pytest.raises(OutboundRefused, match="special-use"):
        await guard.addresses("sub.inside.example", 8443)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25eth0]",
        "[fd00:ec2::254]",
    ],
)
def test_a_special_use_address_in_the_url_is_refused(host: str) -> None:
    """An address in the URL is judged like one from the name server, before anything is looked up."""
    with pytest.raises(OutboundRefused, match="special-use"):
        _guard().admit(f"https://{host}/jwks")


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0x7f.0.0.0x1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.01",
        "127.0.0.1.",
        "localhost.",
        "keys.example.",
        "keys..example",
        ".example",
        "ex%61mple.com",
        "127.0.0.1%00.example",
        "a" * 64 + ".example",
        "x!y.example",
    ],
)
def test_odd_spellings_of_hosts_are_refused(host: str) -> None:
    """Decimal, hexadecimal and octal addresses, trailing dots and escapes mean other things to others."""
    with pytest.raises(OutboundRefused, match="not a host"):
        _guard().admit(f"https://{host}/jwks")


@pytest.mark.parametrize(
    "url", ["https://user:pw@keys.example/", "https://user@keys.example/", "https://@keys.example/"]
)
def test_user_and_password_in_the_url_are_refused(url: str) -> None:
    """A URL is no place for a secret, and `https://good.example@evil.example` no way to look harmless."""
    with pytest.raises(OutboundRefused, match="user name or password"):
        _guard().admit(url)


@pytest.mark.parametrize(
    "url",
    [
        "keys.example/jwks",
        "//keys.example/jwks",
        "file:///etc/passwd",
        "ftp://keys.example/",
        "gopher://x/",
        "https:/x",
        "",
    ],
)
def test_only_absolute_web_urls_are_admitted(url: str) -> None:
    """Relative URLs and other schemes are refused."""
    with pytest.raises(OutboundRefused):
        _guard().admit(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://keys.example/a b",
        "https://k\u0435ys.example/",
        "https://keys.example/\r\nX: y",
        "https://１２７.0.0.1/",
    ],
)
def test_urls_with_blanks_controls_or_other_alphabets_are_refused(url: str) -> None:
    """What a URL normaliser would silently turn into something else is refused in the first place."""
    with pytest.raises(OutboundRefused, match="printable ASCII"):
        _guard().admit(url)


@pytest.mark.parametrize(
    "url", ["https://keys.example:99999/", "https://keys.example:0/", "https://[::1/", "https:///x"]
)
def test_urls_without_a_usable_host_or_port_are_refused(url: str) -> None:
    """A URL that does not parse, or names no host or port 0, is refused with the guard's own error."""
    with pytest.raises(OutboundRefused):
        _guard().admit(url)


def test_plain_http_is_for_exceptions_only() -> None:
    """http is refused unless that exact host and port is allowed; another port of it stays closed."""
    guard = _guard(("127.0.0.1", 8080), ("inside.example", 8080))
    assert guard.admit("http://127.0.0.1:8080/jwks").port == 8080
    assert guard.admit("http://inside.example:8080/jwks").host == "inside.example"
    for closed in ("http://inside.example/", "http://inside.example:8081/", "http://keys.example:8080/"):
        with pytest.raises(OutboundRefused, match="Plain http"):
            guard.admit(closed)
    with pytest.raises(OutboundRefused, match="special-use"):
        guard.admit("https://127.0.0.1:8081/")


def test_an_exception_for_an_ipv6_address_has_one_spelling() -> None:
    """However an allowed IPv6 address is written, it is the same address."""
    guard = _guard(("0:0:0:0:0:0:0:1", 8080))
    assert guard.admit("http://[::1]:8080/").raw_host == "::1"
