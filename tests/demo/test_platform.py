"""The stand-in for a platform: its tokens verify under what it publishes, and under nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest

from broker.demo.platform import KEYS_PATH, METADATA_PATH, StandInPlatform
from broker.entropy import system_entropy
from broker.errors import EvidenceRejected
from broker.formats import evidence_jwt, jwk
from tests.fakes import FakeClock

AUDIENCE = "http://127.0.0.1:8420"


@pytest.fixture
async def platform() -> AsyncIterator[StandInPlatform]:
    """A platform that listens."""
    async with StandInPlatform(clock=FakeClock(), entropy=system_entropy) as listening:
        yield listening


async def _published(platform: StandInPlatform) -> tuple[jwk.PublicKey, ...]:
    async with httpx2.AsyncClient() as client:
        metadata = (await client.get(f"{platform.issuer}{METADATA_PATH}")).json()
        assert metadata["issuer"] == platform.issuer
        return jwk.parse_set((await client.get(metadata["jwks_uri"])).json())


def _verified(platform: StandInPlatform, token: str, keys: tuple[jwk.PublicKey, ...]) -> dict[str, object]:
    return evidence_jwt.verify(
        token,
        keys=keys,
        algorithms=frozenset({"ES256"}),
        issuer=platform.issuer,
        audience=AUDIENCE,
        now=FakeClock().now(),
        leeway_s=0,
        max_lifetime_s=None,
    )


async def test_its_token_verifies_under_its_published_keys(platform: StandInPlatform) -> None:
    """Metadata leads to the key set, and the key set verifies the token with the claims asked for."""
    token = platform.identity_token("repo:acme/bot:ref:main", AUDIENCE, {"repository": "acme/bot"}, lifetime_s=60)
    claims = _verified(platform, token, await _published(platform))
    assert claims["sub"] == "repo:acme/bot:ref:main"
    assert claims["repository"] == "acme/bot"
    assert claims["exp"] == FakeClock().now() + 60
    assert platform.fetches == {METADATA_PATH: 1, KEYS_PATH: 1}


async def test_its_claims_can_be_broken_one_by_one(platform: StandInPlatform) -> None:
    """Claims that a test gives win over the right ones, and the token then fails its verification."""
    keys = await _published(platform)
    for wrong in ({"iss": "https://other.example"}, {"aud": "other"}, {"exp": 1}):
        with pytest.raises(EvidenceRejected):
            _verified(platform, platform.identity_token("a", AUDIENCE, wrong), keys)


async def test_a_rotated_key_is_published_beside_the_old_one(platform: StandInPlatform) -> None:
    """After a rotation, both keys' tokens verify under the new set, and the new one not under the old."""
    before, old = platform.identity_token("a", AUDIENCE), await _published(platform)
    platform.rotate()
    after, new = platform.identity_token("a", AUDIENCE), await _published(platform)
    assert _verified(platform, before, new)["sub"] == "a"
    assert _verified(platform, after, new)["sub"] == "a"
    with pytest.raises(EvidenceRejected):
        _verified(platform, after, old)


async def test_two_platforms_have_different_keys(platform: StandInPlatform) -> None:
    """Every platform makes its own key: one does not verify the other's tokens."""
    async with StandInPlatform(clock=FakeClock(), entropy=system_entropy) as other:
        forged = other.identity_token("a", AUDIENCE, {"iss": platform.issuer})
        with pytest.raises(EvidenceRejected):
            _verified(platform, forged, await _published(platform))
