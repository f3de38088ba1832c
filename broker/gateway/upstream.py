"""The hop to the provider: which headers cross in each direction, and whose key is added.

Lists of what may pass, never of what may not: the caller's token and cookies stop here, and so do headers that would
choose another account at the provider; the provider's account names stop on the way back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.errors import OutboundRefused
from broker.gateway.endpoints import Endpoint
from broker.gateway.wire import Wire

_ANSWER_HEADERS = frozenset({b"content-type", b"content-encoding", b"cache-control", b"retry-after"})


@dataclass(frozen=True, slots=True, repr=False)
class ProviderKey:
    """A provider's key and the exact origins that may be sent it."""

    value: str
    origins: frozenset[str]

    def __repr__(self) -> str:
        """Never the key."""
        return f"ProviderKey(origins={sorted(self.origins)})"


class ProviderKeys:
    """The providers' keys by the names that the configuration gives them.

    Args:
        keys: by name.
    """

    def __init__(self, keys: Mapping[str, ProviderKey]) -> None:
        self._keys = dict(keys)

    def check(self, endpoint: Endpoint) -> None:
        """Refuses an endpoint whose key is not configured, or may not be sent to its origin.

        Raises:
            OutboundRefused: the text names the secret and the origin.
        """
        if not endpoint.secret:
            return
        key = self._keys.get(endpoint.secret)
        if key is None:
            raise OutboundRefused(
                f"The endpoint {endpoint.name} needs the secret {endpoint.secret!r}, which broker.toml does not name."
            )
        if endpoint.origin not in key.origins:
            raise OutboundRefused(
                f"The secret {endpoint.secret!r} may not be sent to {endpoint.origin}; "
                "its `origins` in broker.toml say where it may go."
            )

    def headers(self, wire: Wire, endpoint: Endpoint, received: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
        """The header fields to send: those of the caller's that may pass, and the provider's key.

        Raises:
            OutboundRefused: see `check`. Fails closed: no call is sent without the check.
        """
        self.check(endpoint)
        sent = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in received if n in wire.request_headers]
        named = {name for name, _ in sent}
        sent += [each for each in wire.default_headers if each[0] not in named]
        # Ours and not the caller's: another charset would let the provider read something else than we did.
        sent.append(("content-type", "application/json"))
        sent.append(("accept-encoding", "identity"))
        sent.append(("user-agent", "broker"))
        if endpoint.secret:
            name, before = wire.key_header
            sent.append((name, before + self._keys[endpoint.secret].value))
        return sent


def answer_headers(wire: Wire, received: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The header fields of the provider's answer that may reach the caller."""
    passing = _ANSWER_HEADERS | wire.answer_headers
    return [(n, v) for n, v in received if n in passing or n.startswith(wire.answer_prefixes)]
