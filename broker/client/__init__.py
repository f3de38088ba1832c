"""The SDK: gives an HTTP client short-lived credentials of the broker, bound to this process's key.

    import httpx2, openai, pathlib
    from broker.client import BrokerAuth

    auth = BrokerAuth("https://broker.example", pathlib.Path("/var/run/secrets/tokens/broker"))
    client = openai.OpenAI(
        base_url="https://broker.example/openai/v1", api_key="unused", http_client=httpx2.Client(auth=auth)
    )

`BrokerAuth` is for httpx2, `HttpxBrokerAuth` for httpx; each imports its library when it is first named, and
neither needs anything of the broker's server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.errors import (
    BrokerUnreachable,
    ClientError,
    EvidenceUnavailable,
    NoReceipt,
    TokenRefused,
    WrongOrigin,
)
from broker.client.token_request import (
    TokenAnswer,
    TokenRequest,
    build_token_request,
    client_assertion,
    client_credentials_form,
    exchange_form,
    read_token_answer,
)

if TYPE_CHECKING:
    from broker.client.httpx2_auth import BrokerAuth
    from broker.client.httpx_auth import HttpxBrokerAuth

__all__ = [
    "BrokerAuth",
    "BrokerUnreachable",
    "ClientError",
    "EvidenceUnavailable",
    "HttpxBrokerAuth",
    "NoReceipt",
    "TokenAnswer",
    "TokenRefused",
    "TokenRequest",
    "WrongOrigin",
    "build_token_request",
    "client_assertion",
    "client_credentials_form",
    "exchange_form",
    "read_token_answer",
]


def __getattr__(name: str) -> object:
    if name == "BrokerAuth":
        from broker.client.httpx2_auth import BrokerAuth

        return BrokerAuth
    if name == "HttpxBrokerAuth":
        from broker.client.httpx_auth import HttpxBrokerAuth

        return HttpxBrokerAuth
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
