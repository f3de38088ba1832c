"""The Anthropic SDK, unchanged, through the broker's credentials; alone and beside the other SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anthropic
import httpx2
import openai
import pytest

from broker.client import BrokerAuth, TokenRefused
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock


@pytest.fixture
async def http(broker: StandInBroker, clock: FakeClock) -> AsyncIterator[httpx2.AsyncClient]:
    """One client with one auth, without an audience."""
    async with httpx2.AsyncClient(auth=BrokerAuth(broker.origin, lambda: EVIDENCE, clock=clock)) as client:
        yield client


def _claude(broker: StandInBroker, http: httpx2.AsyncClient) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=f"{broker.origin}/anthropic", api_key="unused", http_client=http, max_retries=0
    )


async def test_one_auth_serves_both_sdks(broker: StandInBroker, http: httpx2.AsyncClient) -> None:
    """Each SDK's calls carry a token for their own part of the gateway; each token is asked for once and kept apart."""
    claude = _claude(broker, http)
    gpt = openai.AsyncOpenAI(base_url=f"{broker.origin}/openai/v1", api_key="unused", http_client=http)
    for _ in range(2):
        said = await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
        assert said.content[0].text == "one two"  # type: ignore[union-attr]  # the stand-in answers with text
        whole = await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert whole.choices[0].message.content == "one two"
    assert [token.form["resource"] for token in broker.tokens] == [
        f"{broker.origin}/anthropic/v1", f"{broker.origin}/openai/v1"
    ]  # fmt: skip
    assert len(broker.calls) == 4
    for call in broker.calls:
        assert call.path.startswith(broker.resource_of(call).removeprefix(broker.origin))


async def test_a_token_that_is_no_longer_taken_is_renewed_alone(
    broker: StandInBroker, http: httpx2.AsyncClient
) -> None:
    """A new token for one part leaves the other part's as it is."""
    for part in ("openai", "anthropic"):
        assert (await http.post(f"{broker.origin}/{part}/v1/echo")).status_code == 200
    kept, dead = broker.issued()
    broker.faults.dead.add(dead)
    for part in ("openai", "anthropic"):
        assert (await http.post(f"{broker.origin}/{part}/v1/echo")).status_code == 200
    sent = [call.headers["authorization"].partition(" ")[2] for call in broker.calls]
    assert sent == [kept, dead, kept, dead, broker.issued()[2]]
    assert broker.resource_of(broker.calls[-1]) == f"{broker.origin}/anthropic/v1"


@pytest.mark.parametrize(
    "path", ["/anthropic", "/anthropic/v2/x", "/Anthropic/v1/x", "/x/anthropic/v1/x", "/", "/other/v1"]
)
async def test_only_a_part_that_the_broker_has_is_one(
    broker: StandInBroker, http: httpx2.AsyncClient, path: str
) -> None:
    """A path that is no part of the gateway has the token of the first part, and no resource is made up for it."""
    await http.post(broker.origin + path)
    assert [token.form["resource"] for token in broker.tokens] == [f"{broker.origin}/openai/v1"]


async def test_an_audience_that_is_named_counts_everywhere(broker: StandInBroker, clock: FakeClock) -> None:
    """Whoever names what tokens are for gets those and no others."""
    named = f"{broker.origin}/anthropic/v1"
    auth = BrokerAuth(broker.origin, lambda: EVIDENCE, audience=named, clock=clock)
    async with httpx2.AsyncClient(auth=auth) as http:
        for part in ("openai", "anthropic"):
            await http.post(f"{broker.origin}/{part}/v1/echo")
    assert [token.form["resource"] for token in broker.tokens] == [named]


async def test_a_refused_token_reaches_the_user_of_the_sdk(broker: StandInBroker, http: httpx2.AsyncClient) -> None:
    """This SDK calls whatever goes wrong before an answer a failed connection; the refusal is its cause."""
    broker.faults.token.append((400, {"error": "invalid_target", "error_description": "not in any policy"}))
    with pytest.raises(anthropic.APIConnectionError) as failed:
        await _claude(broker, http).models.list()
    assert isinstance(failed.value.__cause__, TokenRefused)
    assert "not in any policy" in str(failed.value.__cause__)
    assert len(broker.tokens) == 1
