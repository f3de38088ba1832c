"""Origins: where a token may go, and the broker's own."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from broker.errors import ConfigurationError

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL, each in one spelling."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, scheme: str, host: str, port: int | None) -> Origin:
        """The origin of a URL's parts; no port means the scheme's own."""
        return cls(scheme.lower(), host.lower(), port or _DEFAULT_PORTS.get(scheme.lower(), 0))


def broker_origin(broker_url: str, *, allow_plain_http: bool) -> Origin:
    """The one origin that tokens and proofs are for.

    Raises:
        ConfigurationError: no absolute URL, one with user, query or fragment, or plain http beyond loopback.
    """
    try:
        parts = urlsplit(broker_url)
        origin = Origin.of(parts.scheme, parts.hostname or "", parts.port)
    except ValueError as error:
        raise ConfigurationError(f"{broker_url[:200]!r} is no URL; write the broker's issuer identifier.") from error
    if not origin.host or origin.scheme not in _DEFAULT_PORTS or parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigurationError(
            f"{broker_url[:200]!r} is no broker's URL; write its issuer identifier, such as https://broker.example."
        )
    if origin.scheme == "http" and not allow_plain_http and not _is_loopback(origin.host):
        raise ConfigurationError(
            f"{broker_url} would show evidence and tokens to the network: use https, or "
            "allow_plain_http=True where something else encrypts the way."
        )
    return origin


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
