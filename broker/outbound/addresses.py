"""Which URLs and which addresses the broker may connect to.

Server-side request forgery has two halves: a URL that says one thing and means another, and a name that
resolves to a place inside. The guard answers both. A URL is parsed once, by the parser whose result is then
connected to; a name is resolved once, every address of the answer is checked, and exactly those addresses are
connected to, so that a second, different answer of the name server (DNS rebinding) never counts. Fails
closed: what is not known to be public is refused.

Source: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890); RFC 4291 §2.4 (global unicast is
2000::/3); RFC 6052 §2.1 (NAT64).
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable

from yarl import URL

from broker.errors import OutboundRefused

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Takes a host name and a port, gives the addresses of the name as text; an unknown name raises `OSError`."""

_SPECIAL_IPV4 = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # looks public, is the host beneath every machine of one cloud (Azure)
        "169.254.0.0/16",  # link-local, and with it the clouds' metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL_IPV6 = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # Teredo, ORCHID, benchmarking: nothing there is a host to talk to
        "2001:db8::/32",
        "2002::/16",  # 6to4 carries any IPv4 address, private ones included
        "3fff::/20",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PLAIN_TEXT = re.compile(r"[\x21-\x7e]+")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is a unicast address of the public internet.

    IPv4-mapped and NAT64 addresses are judged by the IPv4 address inside them; 6to4, Teredo and everything
    else outside 2000::/3 is not public, whatever is inside. Python's own `is_global` is no help: it calls
    multicast and NAT64 global, and changes between releases.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return False
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        return address in _GLOBAL_IPV6 and not any(address in network for network in _SPECIAL_IPV6)
    return not any(address in network for network in _SPECIAL_IPV4)


async def system_resolve(host: str, port: int) -> list[str]:
    """Asks the machine's resolver, in a thread."""
    answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))


class Guard:
    """Decides what may be connected to.

    Args:
        allowed: the exceptions, each an exact host (as it is written in URLs) and port, where plain http and
            special-use addresses are accepted. A host on another port, or another name of the same address,
            is none.
        resolve: how names become addresses.
    """

    def __init__(self, allowed: Iterable[tuple[str, int]], resolve: Resolve) -> None:
        self._allowed = frozenset((_canonical(host.lower()), port) for host, port in allowed)
        self._resolve = resolve

    def admit(self, url: str) -> URL:
        """Parses a URL and checks all that can be known without the network.

        Returns:
            The URL in the form to connect to; nothing may parse the text again.

        Raises:
            OutboundRefused: relative, not http or https, plain http to a host that is no exception, user and
                password in it, a host that is neither a plain name nor a canonical address, or a special-use
                address.
        """
        if not _PLAIN_TEXT.fullmatch(url):
            raise OutboundRefused("A URL must be printable ASCII: percent-encode its path, write its host in punycode.")
        scheme, separator, rest = url.partition("://")
        authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
        if not separator or scheme.lower() not in {"http", "https"}:
            raise OutboundRefused("Only absolute https URLs are fetched; write the URL with https:// in front.")
        if "@" in authority:
            raise OutboundRefused(
                "The URL carries a user name or password; take it out and name the secret in broker.toml."
            )
        try:
            target = URL(url)
            host, port = _canonical(target.raw_host or ""), target.port or 0
        except ValueError:
            raise OutboundRefused("The URL does not parse; check its host and port.") from None
        address = _address(host)
        if address is None:
            _check_name(host)
        excepted = (host, port) in self._allowed
        if port == 0:
            raise OutboundRefused("Port 0 is no port; write the one that the server listens on.")
        if target.scheme != "https" and not excepted:
            raise OutboundRefused(
                f"Plain http to {host}:{port} is not allowed; use https, or allow that exact host and port."
            )
        if address is not None and not excepted and not is_public(address):
            raise _special_use(host, port)
        return target

    async def addresses(self, host: str, port: int) -> list[str]:
        """Resolves a name once and gives the addresses to connect to, all of them checked.

        Raises:
            OutboundRefused: one of the addresses is a special-use one. One is enough: a public name has no
                business with a private address, and connecting falls back from one address to the next.
            OSError: the name has no address.
        """
        answers = await self._resolve(host, port)
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "the name has no address")
        found = []
        for answer in answers:
            address = _address(answer)
            if address is None:
                raise socket.gaierror(socket.EAI_FAIL, "the name resolved to something that is no address")
            found.append(address)
        if (_canonical(host), port) not in self._allowed and not all(map(is_public, found)):
            raise _special_use(host, port)
        return [str(address) for address in found]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that the text is; `None` for a name, and for `127.1`, `0x7f.1` or `0177.0.0.1`."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _canonical(host: str) -> str:
    """One spelling for each IPv6 address; anything else as it is."""
    address = _address(host)
    return host if address is None else str(address)


def _check_name(host: str) -> None:
    """Refuses a host that some resolver would read as a number, and names with a dot at the end.

    Source: WHATWG URL Standard, "ends in a number checker". A trailing dot would spell a host a second way.
    """
    if not _NAME.fullmatch(host) or len(host) > 253 or _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise OutboundRefused(
            f"{host[:100]!r} is not a host to connect to: write a plain name without a dot at its end, "
            "or an address in its usual form."
        )


def _special_use(host: str, port: int) -> OutboundRefused:
    return OutboundRefused(
        f"{host}:{port} is at a special-use address (loopback, private, link-local or the like); "
        "if it is meant, allow that exact host and port."
    )
