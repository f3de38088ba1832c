"""Requests with the broker's credentials: what is sent, and what happens when the broker asks for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import httpx2
import pytest

from broker.client import BrokerAuth, HttpxBrokerAuth, WrongOrigin
from tests.client.conftest import MakeCaller
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock


async def test_a_request_carries_a_bound_token_and_a_proof(caller: MakeCaller, broker: StandInBroker) -> None:
    """The evidence is exchanged once, and each request has the token and a proof of its own for its very URL."""
    one = caller(scope="calls")
    for _ in range(3):
        response = await one.send(f"{broker.url}?query=1#part", content=b"hello")
        assert (response.status_code, response.content) == (200, b"hello")
    (asked,) = broker.tokens
    assert asked.form == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": EVIDENCE,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "resource": f"{broker.origin}/openai/v1",
        "scope": "calls",
    }
    assert len({call.jti for call in broker.calls}) == 3
    assert {call.jkt for call in broker.calls} == {asked.jkt}


async def test_the_callers_own_authorization_is_replaced(caller: MakeCaller, broker: StandInBroker) -> None:
    """A placeholder that an SDK sends does not reach the broker beside the token."""
    headers = {"Authorization": "Bearer unused", "DPoP": "forged"}
    assert (await caller().send(broker.url, headers=headers)).status_code == 200
    assert broker.calls[0].headers["authorization"] == f"DPoP {broker.issued()[0]}"


async def test_a_token_is_for_what_was_asked(caller: MakeCaller, broker: StandInBroker) -> None:
    """The audience names the resource, and the type of the evidence travels along."""
    one = caller(audience=f"{broker.origin}/anthropic", subject_token_type="urn:ietf:params:oauth:token-type:id_token")
    await one.send(broker.url)
    assert broker.tokens[0].form["resource"] == f"{broker.origin}/anthropic"
    assert broker.tokens[0].form["subject_token_type"] == "urn:ietf:params:oauth:token-type:id_token"


@pytest.mark.parametrize(
    "where", ["https://127.0.0.1:{port}/", "http://localhost:{port}/", "http://127.0.0.1:{other}/"]
)
async def test_nothing_is_sent_to_another_origin(
    caller: MakeCaller, broker: StandInBroker, other: StandInBroker, where: str
) -> None:
    """Another scheme, host or port gets neither token nor proof: the request is not sent, no token is asked for."""
    ports = {"port": broker.origin.rpartition(":")[2], "other": other.origin.rpartition(":")[2]}
    one = caller()
    with pytest.raises(WrongOrigin, match="is not the broker"):
        await one.send(where.format(**ports))
    assert (broker.tokens, broker.calls, other.tokens, other.calls) == ([], [], [], [])


async def test_a_nonce_that_the_gateway_wants_is_given(caller: MakeCaller, broker: StandInBroker) -> None:
    """After a 401 use_dpop_nonce the same request goes out again with the nonce, and later ones have it at once."""
    broker.faults.gateway_nonce = "gateway-1"
    one = caller()
    assert (await one.send(broker.url, content=b"body")).content == b"body"
    assert [(call.nonce, call.body) for call in broker.calls] == [(None, b"body"), ("gateway-1", b"body")]
    await one.send(broker.url)
    assert [call.nonce for call in broker.calls[2:]] == ["gateway-1"]


async def test_nonces_of_token_endpoint_and_gateway_are_apart(caller: MakeCaller, broker: StandInBroker) -> None:
    """Each gets its own nonce and never the other's."""
    broker.faults.token_nonce, broker.faults.gateway_nonce = "token-1", "gateway-1"
    assert (await caller().send(broker.url)).status_code == 200
    assert [asked.nonce for asked in broker.tokens] == [None, "token-1"]
    assert [call.nonce for call in broker.calls] == [None, "gateway-1"]


@pytest.mark.parametrize(
    ("challenge", "nonce", "sent"),
    [
        ('DPoP error="use_dpop_nonce"', "again", 2),
        ('DPoP error="use_dpop_nonce"', None, 1),
        ('DPoP error="invalid_token"', None, 2),
        ('DPoP error="invalid_dpop_proof"', None, 1),
        ('Bearer error="invalid_token"', None, 1),
        ('DPoP error_description="error=invalid_token"', None, 1),
    ],
)
async def test_a_refusal_that_stays_is_the_callers(
    caller: MakeCaller, broker: StandInBroker, challenge: str, nonce: str | None, sent: int
) -> None:
    """What can be mended is tried once more and nothing else is; the 401 then comes back as the response."""
    broker.faults.refuse_all, broker.faults.refusal_nonce = challenge, nonce
    assert (await caller().send(broker.url)).status_code == 401
    assert len(broker.calls) == sent


async def test_a_token_that_the_broker_no_longer_takes_is_replaced(caller: MakeCaller, broker: StandInBroker) -> None:
    """On 401 invalid_token the request is repeated, body and all, with a new token."""
    one = caller()
    await one.send(broker.url)
    broker.faults.dead = set(broker.issued())
    response = await one.send(broker.url, content=b"again")
    assert (response.status_code, response.content) == (200, b"again")
    assert [call.body for call in broker.calls[1:]] == [b"again", b"again"]
    assert len(broker.tokens) == 2


async def test_parallel_requests_with_a_dead_token_get_one_new_one(caller: MakeCaller, broker: StandInBroker) -> None:
    """Many refused at once do not each ask for a token."""
    one = caller()
    await one.send(broker.url)
    broker.faults.dead = set(broker.issued())
    responses = await asyncio.gather(*(one.send(broker.url) for _ in range(10)))
    assert {response.status_code for response in responses} == {200}
    assert len(broker.tokens) == 2


async def test_a_streamed_body_is_sent_once(caller: MakeCaller, broker: StandInBroker) -> None:
    """A body that cannot be read again is not repeated in half: the 401 is the caller's, the nonce is kept for next."""
    broker.faults.gateway_nonce = "gateway-1"
    one = caller()

    def pieces() -> Iterator[bytes]:
        yield from (b"one", b"two")

    async def apieces() -> AsyncIterator[bytes]:
        for piece in pieces():
            yield piece

    def content() -> Any:
        return pieces() if one.blocks else apieces()

    assert (await one.send(broker.url, content=content())).status_code == 401
    assert [call.body for call in broker.calls] == [b"onetwo"]
    assert (await one.send(broker.url, content=content())).content == b"onetwo"


async def test_a_token_request_that_is_redirected_shows_no_evidence(
    caller: MakeCaller, broker: StandInBroker, other: StandInBroker
) -> None:
    """Even a client that follows redirects does not carry the evidence to where one leads."""
    broker.faults.redirect = f"{other.origin}/token"
    one = caller(client_options={"follow_redirects": True})
    with pytest.raises((httpx.StreamConsumed, httpx2.StreamConsumed)):
        await one.send(broker.url)
    assert other.tokens == []


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(("given", "limit"), [(600, 10.0), (0.5, 0.5), (None, 10.0)])
def test_a_token_request_has_a_time_limit(library: Any, given: float | None, limit: float) -> None:
    """It takes the caller's limits where they are shorter than ten seconds, and ten seconds where they are not."""
    limits: list[dict[str, float]] = []

    def answer(request: Any) -> Any:
        if request.url.path == "/token":
            limits.append(request.extensions["timeout"])
            return library.Response(200, json={"access_token": "t", "token_type": "DPoP", "expires_in": 60})
        return library.Response(200)

    auth = (BrokerAuth if library is httpx2 else HttpxBrokerAuth)("https://broker.example", lambda: EVIDENCE)
    with library.Client(auth=auth, transport=library.MockTransport(answer), timeout=given) as client:
        client.get("https://broker.example/openai/v1/models")
    assert limits == [dict.fromkeys(("connect", "read", "write", "pool"), limit)]


async def test_proofs_follow_the_clock(caller: MakeCaller, broker: StandInBroker, clock: FakeClock) -> None:
    """A proof is made for the moment it is sent, so one object serves for a long time."""
    one = caller()
    for _ in range(3):
        assert (await one.send(broker.url)).status_code == 200
        clock.advance(3600)
