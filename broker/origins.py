"""Hosts and origins in the one spelling that configuration takes, so that comparing texts compares what they mean."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""The three names that listening without TLS is for."""

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_host(text: str) -> bool:
    """Whether this is an address in its usual form, or a name in small letters that no resolver reads as a number."""
    try:
        ip_address(text)
    except ValueError:
        return bool(_NAME.fullmatch(text)) and not _NUMBER.fullmatch(text.rpartition(".")[2])
    return True


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name alone: one of `LOOPBACK`, or another address of loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def host_of(origin: str) -> str | None:
    """The host of an exact origin (RFC 6454 §6.2); None for anything else, such as a URL with a path or a user.

    A default port is refused too: it would be a second spelling of the same origin.
    """
    try:
        parts = urlsplit(origin)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    if parts.scheme not in _DEFAULT_PORTS or not host or not is_host(host):
        return None
    if port in (0, _DEFAULT_PORTS[parts.scheme]):
        return None
    shown = f"[{host}]" if ":" in host else host
    exact = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    return host if origin == exact else None


def host_and_port(origin: str) -> tuple[str, int]:
    """Where an exact origin is."""
    parts = urlsplit(origin)
    return parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme]


def endpoint(text: str) -> tuple[str, int] | None:
    """The pair that `host:port` names, the host in small letters and without brackets; None for anything else."""
    host, _, port = text.lower().rpartition(":")
    bare = host[1:-1] if ":" in host and host[0] == "[" and host[-1] == "]" else host
    if not is_host(bare) or not _PORT.fullmatch(port) or int(port) > 65535:
        return None
    return bare, int(port)
