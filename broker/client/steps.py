"""What a session asks its driver to do, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from broker.client.token_request import TokenRequest
from broker.formats.jwk import PrivateKey


@dataclass(frozen=True, slots=True)
class Registered:
    """A client whose key the broker knows."""

    client_id: str
    key: PrivateKey
    kid: str | None


@dataclass(frozen=True, slots=True)
class Send:
    """Send the caller's request with these headers set; reply with an `Answer` without its body."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Ask:
    """Send this to the token endpoint, following no redirect; reply with an `Answer`."""

    request: TokenRequest


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get this public document of the broker's; reply with an `Answer`."""

    url: str


@dataclass(frozen=True, slots=True)
class WantEvidence:
    """Read the evidence; reply with its text."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Take the renewal lock; reply with `Held`, or with None if it is taken and `wait` is false."""

    wait: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `headers` finds values by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """The renewal lock, to be given back."""

    release: Callable[[], None]


Step = Send | Ask | Fetch | WantEvidence | Acquire
Reply = Answer | Held | str | None
