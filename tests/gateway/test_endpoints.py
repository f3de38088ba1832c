"""Where calls go, and the keys that go there and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.db.engine import execute, writing
from broker.demo.provider import StandInProvider
from broker.entropy import system_entropy
from broker.errors import ManifestInvalid, OutboundRefused, UnknownModel
from broker.gateway import endpoints
from broker.gateway.endpoints import Endpoint
from broker.gateway.openai_wire import OPENAI
from broker.gateway.upstream import ProviderKey, ProviderKeys
from tests.build import MODEL, Running, running
from tests.gateway.world import RULES, ByHand, by_hand, last_records

GOOD = {"base_url": "https://api.example/v1", "models": ["m"]}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"base_url": None}, "base_url"),
        ({"base_url": "api.example/v1"}, "base_url"),
        ({"base_url": "ftp://api.example/v1"}, "base_url"),
        ({"base_url": "https:///v1"}, "base_url"),
        ({"base_url": "https://api.example/v1?"}, "base_url"),
        ({"base_url": "https://api.example/v1?key=1"}, "base_url"),
        ({"base_url": "https://api.example/v1#"}, "base_url"),
        ({"base_url": "https://user@api.example/v1"}, "base_url"),
        ({"base_url": "https://:secret@api.example/v1"}, "base_url"),
        ({"base_url": "https://@api.example/v1"}, "base_url"),
        ({"base_url": "https://api.exa\nmple/v1"}, "base_url"),
        ({"base_url": " https://api.example/v1"}, "base_url"),
        ({"base_url": "https://[::1/v1"}, "base_url"),
        ({"base_url": "https://ex\N{FRACTION SLASH}ample/v1"}, "base_url"),
        ({"base_url": "https://api.example:0/v1"}, "base_url"),
        ({"base_url": "https://api.example:99999/v1"}, "base_url"),
        ({"base_url": "https://api.example/" + "a" * 2048}, "base_url"),
        ({"wire": "smoke"}, "wire"),
        ({"secret": 7}, "secret"),
        ({"models": []}, "models"),
        ({"models": "m"}, "models"),
        ({"models": ["m", "m"]}, "models"),
        ({"models": ["*"]}, "models"),
        ({"models": ["a b"]}, "models"),
        ({"models": ["m\n"]}, "models"),
        ({"models": [None]}, "models"),
        ({"api_key": "sk-1"}, "api_key"),
    ],
)
def test_a_specification_that_is_none(change: dict[str, object], told: str) -> None:
    """Every member is checked, and the refusal names the endpoint and the member."""
    with pytest.raises(ManifestInvalid, match=f"endpoint somewhere: .*`{told}`"):
        endpoints.parse("somewhere", {**GOOD, **change})


@pytest.mark.parametrize("name", ["", "A", "-a", "a/b", "a" * 64, "a\n", "*"])
def test_a_name_that_is_none(name: str) -> None:
    """Names go into ceilings, so they cannot hold what separates there."""
    with pytest.raises(ManifestInvalid, match="names are small letters"):
        endpoints.parse(name, GOOD)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example.evil/v1",
        "https://api.example:8443/v1",
        "http://api.example/v1",
        "https://sub.api.example/v1",
        "https://api.example\\@evil.example/v1",
        "https://api.example@evil.example/v1",
        "https://evil.example/https://api.example/v1",
        "https://API.example/v1",
    ],
)
def test_a_key_goes_to_its_exact_origins_only(url: str) -> None:
    """Another scheme, host, port or spelling is another origin. Fails closed."""
    keys = ProviderKeys({"key": ProviderKey("sk-secret", frozenset({"https://api.example"}))})
    keys.check(Endpoint("a", "openai", "https://api.example/v1", "key", ("m",)))
    with pytest.raises(OutboundRefused, match="may not be sent") as refused:
        keys.headers(OPENAI, Endpoint("a", "openai", url, "key", ("m",)), [])
    assert "sk-secret" not in refused.value.detail


def test_a_key_that_is_not_configured() -> None:
    """An endpoint cannot name a key into being."""
    with pytest.raises(OutboundRefused, match="does not name"):
        ProviderKeys({}).headers(OPENAI, Endpoint("a", "openai", "https://api.example/v1", "key", ("m",)), [])


def test_a_key_shows_itself_to_nobody() -> None:
    """The `repr` of a key holds its origins and not the key."""
    assert "sk-secret" not in repr(ProviderKey("sk-secret", frozenset({"https://api.example"})))


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker with one agent."""
    async with running(tmp_path) as started:
        await started.apply({**started.world(), "policies": {"agents.cedar": RULES}})
        yield started


@pytest.fixture
async def caller(run: Running) -> ByHand:
    """That agent."""
    return await by_hand(run)


async def test_an_endpoint_that_would_lure_a_key_is_not_applied(run: Running) -> None:
    """Neither another origin for a configured key, nor a key that is not configured, is ever activated."""
    admin = await run.operator()
    for spec, told in (
        ({"base_url": "http://127.0.0.1:9/v1", "secret": "provider-key"}, "may not be sent to http://127.0.0.1:9"),
        ({"base_url": f"{run.provider.origin}/v1", "secret": "other"}, "does not name"),
    ):
        answer = await admin.post("/api/v1/changes", json={"endpoints": {"lure": {**spec, "models": ["lure"]}}})
        assert answer.status_code == 422
        assert told in answer.json()["detail"]
    assert "lure" not in run.broker.gateway.catalogue.endpoints
    assert (await run.kinds())[-2:] == ["ChangeRefused", "ChangeRefused"]


async def test_a_tampered_row_never_sends_the_key_elsewhere(run: Running, caller: ByHand) -> None:
    """Who can write the database can move an endpoint, and the key still goes nowhere: checked again on every call."""
    async with StandInProvider(clock=SystemClock(), entropy=system_entropy) as elsewhere:
        with writing(run.broker.engine) as connection:
            execute(connection, "UPDATE endpoints SET base_url = ?", (f"{elsewhere.origin}/v1",))
        run.broker.gateway.catalogue.reload()
        answer = await caller.post({"model": MODEL})
        assert answer.status_code == 502
        assert elsewhere.received == []
    assert "provider-key" not in answer.text
    failed = (await last_records(run, 1))[0]
    assert (failed["kind"], failed["request"]["failure"]) == ("CallFailed", "outbound_refused")


async def test_a_tampered_row_cannot_reach_inside(run: Running, caller: ByHand) -> None:
    """An endpoint without a key that was moved to a special-use address is stopped by the outgoing door."""
    async with StandInProvider(clock=SystemClock(), entropy=system_entropy) as inside:
        with writing(run.broker.engine) as connection:
            execute(connection, "UPDATE endpoints SET secret = '', base_url = ?", (f"{inside.origin}/v1",))
        run.broker.gateway.catalogue.reload()
        assert (await caller.post({"model": MODEL})).status_code == 502
        assert inside.received == []


async def test_an_endpoint_without_a_key_gets_none(run: Running, caller: ByHand) -> None:
    """No key is configured for it, so no Authorization is sent: not the caller's either."""
    admin = await run.operator()
    keyless = {"base_url": f"{run.provider.origin}/v1", "models": [MODEL]}
    answer = await admin.post("/api/v1/changes", json={"endpoints": {"stand-in": keyless}})
    assert answer.status_code == 200, answer.text
    assert (await caller.post({"model": MODEL})).status_code == 502
    assert "authorization" not in run.provider.received[-1].headers


async def test_the_catalogue_offers_what_is_active(run: Running) -> None:
    """Models are found by the format's name and by the ceiling's; those of a disabled endpoint by neither."""
    catalogue = run.broker.gateway.catalogue
    assert catalogue.find("openai", MODEL) is catalogue.named(f"stand-in/{MODEL}")
    for wire, name in (("anthropic", MODEL), ("openai", f"stand-in/{MODEL}"), ("openai", "")):
        with pytest.raises(UnknownModel):
            catalogue.find(wire, name)
    with writing(run.broker.engine) as connection:
        connection.exec_driver_sql("UPDATE endpoints SET status = 'disabled'")
    catalogue.reload()
    assert catalogue.of("openai") == []
    with pytest.raises(UnknownModel):
        catalogue.named(f"stand-in/{MODEL}")
