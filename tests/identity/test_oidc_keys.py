"""The keys of OpenID issuers: found by discovery or pinned, kept a while, renewed in measure, never trusted stale."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from broker.demo.platform import KEYS_PATH, METADATA_PATH
from broker.errors import EvidenceRejected, Unavailable
from broker.formats import jwk
from tests.build import es256
from tests.fakes import FakeClock
from tests.formats.forge import p256, rsa
from tests.formats.forge import token as forged
from tests.identity.issuer import AUDIENCE, FickleIssuer, verified
from tests.tokens.scene import Scene, opened


async def test_keys_are_found_by_discovery_and_kept() -> None:
    """One look at the discovery document and one at the key set serve every token of ten minutes."""
    async with verified() as it:
        for _ in range(5):
            assert await it.accepts(it.token()) == "job-7"
            it.clock.advance(120)
        assert it.issuer.fetches == {METADATA_PATH: 1, KEYS_PATH: 1}
        it.clock.advance(1)
        assert await it.accepts(it.token()) == "job-7"
        assert it.issuer.fetches == {METADATA_PATH: 2, KEYS_PATH: 2}


async def test_many_at_once_make_one_request() -> None:
    """Fifty first tokens at the same moment cost the issuer one look."""
    async with verified() as it:
        found = await asyncio.gather(*(it.accepts(it.token()) for _ in range(50)))
        assert found == ["job-7"] * 50
        assert it.issuer.fetches == {METADATA_PATH: 1, KEYS_PATH: 1}


async def test_a_configured_key_address_needs_no_discovery() -> None:
    """With `jwks_uri` the discovery document is not asked for."""
    async with verified() as it:
        assert await it.accepts(it.token(), jwks_uri=f"{it.issuer.origin}{KEYS_PATH}") == "job-7"
        assert it.issuer.fetches == {METADATA_PATH: 0, KEYS_PATH: 1}


async def test_pinned_keys_ask_nobody() -> None:
    """With `jwks` nothing is fetched, neither for a known key nor for an unknown one."""
    async with verified() as it:
        key = es256()
        pinned = {"keys": [{**jwk.to_members(key.public_key()), "kid": "pinned"}]}
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "job-7", "aud": AUDIENCE, "iat": now, "exp": now + 60}
        good = forged({"alg": "ES256", "kid": "pinned"}, claims, key)
        assert await it.accepts(good, jwks=pinned) == "job-7"
        for bad in (it.token(), forged({"alg": "ES256", "kid": "other"}, claims, key)):
            with pytest.raises(EvidenceRejected):
                await it.accepts(bad, jwks=pinned)
        assert it.issuer.fetches == {METADATA_PATH: 0, KEYS_PATH: 0}


async def test_a_rotated_key_is_found() -> None:
    """An unknown kid makes the verifier look again: the platform rotates and its next token is taken."""
    async with verified() as it:
        await it.accepts(it.token())
        it.clock.advance(31)
        it.issuer.rotate()
        assert await it.accepts(it.token()) == "job-7"
        assert it.issuer.asked == 2


async def test_a_key_that_changed_under_its_name_is_found() -> None:
    """A signature that does not verify makes it look again, for an issuer may reuse a kid."""
    async with verified() as it:
        old, new = es256(), es256()
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "job-7", "aud": AUDIENCE, "iat": now, "exp": now + 300}
        for key in (old, new):
            it.issuer.key_set = {"keys": [{**jwk.to_members(key.public_key()), "kid": "always"}]}
            it.clock.advance(31)
            assert await it.accepts(forged({"alg": "ES256", "kid": "always"}, claims, key)) == "job-7"


async def test_a_withdrawn_key_is_refused_after_ten_minutes() -> None:
    """What the issuer no longer publishes is no longer believed once the kept keys are renewed."""
    async with verified() as it:
        stolen = it.token(exp=int(it.clock.now()) + 3600)
        assert await it.accepts(stolen) == "job-7"
        it.issuer.forget_older_keys()
        it.clock.advance(601)
        with pytest.raises(EvidenceRejected):
            await it.accepts(stolen)


async def test_unknown_keys_make_no_flood_at_the_issuer() -> None:
    """Whoever sends tokens with made-up kids, the issuer is asked at most every half minute."""
    async with verified() as it:
        await it.accepts(it.token())
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "job-7", "aud": AUDIENCE, "iat": now, "exp": now + 600}
        for second in range(61):
            with pytest.raises(EvidenceRejected):
                await it.accepts(forged({"alg": "ES256", "kid": f"made-up-{second}"}, claims, es256()))
            it.clock.advance(1)
        assert it.issuer.asked == 3


@pytest.mark.parametrize(
    "wrong",
    [{"aud": "https://elsewhere.example"}, {"exp": 1_700_000_000}, {"exp": 1_800_090_000}, {"sub": 7}],
    ids=str,
)
async def test_a_wrong_claim_makes_nobody_look_again(wrong: dict[str, object]) -> None:
    """Newer keys would not mend a claim, so the issuer is not asked for them."""
    async with verified() as it:
        await it.accepts(it.token())
        it.clock.advance(31)
        with pytest.raises(EvidenceRejected):
            await it.accepts(it.token(**wrong))
        assert it.issuer.asked == 1


async def test_kept_keys_serve_while_the_issuer_is_down() -> None:
    """An issuer that cannot be reached is asked every half minute; the keys we have serve for an hour, then nobody."""
    async with verified() as it:
        await it.accepts(it.token())
        it.issuer.down = True
        it.clock.advance(601)
        assert await it.accepts(it.token()) == "job-7"
        it.clock.advance(3600 - 601)
        assert await it.accepts(it.token()) == "job-7"
        it.clock.advance(1)
        with pytest.raises(Unavailable, match="cannot be fetched"):
            await it.accepts(it.token())
        it.issuer.down = False
        it.clock.advance(30)
        assert await it.accepts(it.token()) == "job-7"


async def test_an_issuer_that_never_answered_is_asked_in_measure() -> None:
    """Without any keys every token is refused for the moment, and the issuer is asked every five seconds at most."""
    async with verified() as it:
        it.issuer.down = True
        for _ in range(3):
            for _ in range(10):
                with pytest.raises(Unavailable, match="cannot be fetched"):
                    await it.accepts(it.token())
            it.clock.advance(5)
        assert it.issuer.fetches[METADATA_PATH] == 3
        it.issuer.down = False
        assert await it.accepts(it.token()) == "job-7"


async def test_a_slow_issuer_holds_up_nobody_whose_keys_are_known() -> None:
    """While one unknown kid, or the renewal, waits for the issuer, tokens under known keys are verified at once."""
    async with verified() as it:
        await it.accepts(it.token())
        honest = it.token()
        it.clock.advance(31)
        it.issuer.close_gate()
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "x", "aud": AUDIENCE, "iat": now, "exp": now + 60}
        stuck = asyncio.create_task(it.accepts(forged({"alg": "ES256", "kid": "made-up"}, claims, es256())))
        await it.issuer.somebody_waits.wait()
        assert await asyncio.wait_for(it.accepts(honest), 2) == "job-7"
        it.clock.advance(580)
        assert await asyncio.wait_for(it.accepts(it.token()), 2) == "job-7"
        assert not stuck.done()
        it.issuer.gate.set()
        with pytest.raises(EvidenceRejected):
            await stuck


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example"},
        {"issuer": "{issuer}/"},
        {"issuer": None},
        {"issuer": ["{issuer}"]},
        {"jwks_uri": None},
        {"jwks_uri": ""},
        {"jwks_uri": 7},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": "http://user:password@127.0.0.1/jwks"},
        {"jwks_uri": "jwks"},
    ],
    ids=str,
)
async def test_a_discovery_document_that_does_not_fit_is_refused(document: dict[str, Any]) -> None:
    """OpenID Connect Discovery §4.3: it MUST name exactly the issuer that was asked; and a key set's address."""
    async with verified() as it:
        for name, value in document.items():
            it.issuer.document[name] = value.replace("{issuer}", it.issuer.issuer) if isinstance(value, str) else value
        with pytest.raises(Unavailable):
            await it.accepts(it.token())
        assert it.issuer.asked == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1:{other}/jwks",
        "http://localhost:{other}/jwks",
        "http://[::1]:{other}/jwks",
        "http://2130706433:{other}/jwks",
        "https://10.0.0.1/jwks",
        "http://broker.example/jwks",
    ],
)
@pytest.mark.parametrize("named_by", ["discovery", "attester"])
async def test_a_key_address_leads_to_no_special_place(address: str, named_by: str) -> None:
    """Keycloak CVE-2026-1180: `jwks_uri` passes the one guarded door; inner addresses are never asked."""
    async with verified() as it, FickleIssuer(clock=it.clock) as inner:
        address = address.replace("{other}", inner.origin.rpartition(":")[2])
        if named_by == "discovery":
            it.issuer.document["jwks_uri"] = address
        with pytest.raises(Unavailable):
            await it.accepts(it.token(), **({"jwks_uri": address} if named_by == "attester" else {}))
        assert inner.asked == 0
        assert it.issuer.asked == 0


@pytest.mark.parametrize(
    "key_set",
    [
        {},
        {"keys": []},
        {"keys": {}},
        [],
        "keys",
        {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
        {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]},
        {"keys": [{"kty": "unheard"}]},
        {"keys": ["x"]},
        {"keys": [{**jwk.to_members(rsa(1024).public_key()), "kid": "small"}]},
        {"keys": [{"kty": "RSA", "e": "AQAB", "n": "A" * 20_000}]},
        {"keys": [{**jwk.to_members(p256().public_key()), "kid": "same"}] * 2},
        {"keys": [jwk.to_members(p256(str(n)).public_key()) for n in range(101)]},
    ],
    ids=[
        "empty",
        "no-keys",
        "keys-object",
        "list",
        "text",
        "secret",
        "short-ec",
        "unheard",
        "not-a-key",
        "small-rsa",
        "huge-rsa",
        "same-kid",
        "101-keys",
    ],
)
async def test_a_key_set_that_cannot_be_used_is_refused(key_set: object) -> None:
    """No keys, secret or tiny keys, ambiguous names, or too many: none of it is believed, and nothing old is lost."""
    async with verified() as it:
        it.issuer.key_set = key_set
        with pytest.raises(Unavailable):
            await it.accepts(it.token())
        it.issuer.key_set = None
        it.clock.advance(5)
        assert await it.accepts(it.token()) == "job-7"
        it.issuer.key_set = key_set
        it.clock.advance(601)
        assert await it.accepts(it.token()) == "job-7"


async def test_a_huge_key_costs_no_mathematics() -> None:
    """SPIRE x509pop 1.14.2: a key beyond 4096 bits is skipped by its size; the other keys of the set serve."""
    async with verified() as it:
        honest = {**jwk.to_members(it.issuer._keys[-1][1].public_key()), "kid": it.issuer._keys[-1][0]}
        huge = {"kty": "RSA", "e": "AQAB", "n": "_" * 16_000, "kid": "huge"}
        it.issuer.key_set = {"keys": [huge, honest]}
        assert await it.accepts(it.token()) == "job-7"
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "x", "aud": AUDIENCE, "iat": now, "exp": now + 60}
        with pytest.raises(EvidenceRejected):
            await it.accepts(forged({"alg": "RS256", "kid": "huge"}, claims, rsa()), algorithms=["RS256", "ES256"])


async def test_a_token_that_names_two_keys_chooses_none() -> None:
    """Without a kid and with two keys that fit, the token would choose; with one it is clear."""
    async with verified() as it:
        first, second = es256(), es256()
        now = int(it.clock.now())
        claims = {"iss": it.issuer.issuer, "sub": "job-7", "aud": AUDIENCE, "iat": now, "exp": now + 60}
        nameless = forged({"alg": "ES256"}, claims, first)
        it.issuer.key_set = {"keys": [jwk.to_members(first.public_key())]}
        assert await it.accepts(nameless) == "job-7"
        it.issuer.key_set = {"keys": [jwk.to_members(key.public_key()) for key in (first, second)]}
        it.clock.advance(601)
        with pytest.raises(EvidenceRejected, match="exactly one"):
            await it.accepts(forged({"alg": "ES256"}, {**claims, "exp": now + 900}, first))


@asynccontextmanager
async def fickle_scene(folder: Path) -> AsyncIterator[tuple[Scene, FickleIssuer]]:
    """A whole broker whose platform is fickle."""
    clock = FakeClock()
    async with FickleIssuer(clock=clock) as issuer, opened(folder, clock=clock, platform=issuer) as scene:
        yield scene, issuer


async def test_at_the_token_endpoint_missing_keys_are_503(tmp_path: Path) -> None:
    """An issuer that is down is nobody's fault at the door: 503 with Retry-After, no record, and it mends itself."""
    async with fickle_scene(tmp_path) as (scene, issuer):
        issuer.down = True
        before = len(await scene.records())
        answer = await scene.exchange()
        assert answer.status_code == 503
        assert answer.json()["error"] == "temporarily_unavailable"
        assert answer.headers["retry-after"] == "1"
        assert issuer.origin not in answer.text
        assert len(await scene.records()) == before
        issuer.down = False
        scene.clock.advance(5)
        assert (await scene.exchange()).status_code == 200


async def test_an_attester_disabled_while_its_keys_are_fetched_is_refused(tmp_path: Path) -> None:
    """Disabling is immediate: a request that waits for a slow issuer meanwhile gets no token either."""
    async with fickle_scene(tmp_path) as (scene, issuer):
        issuer.close_gate()
        waiting = asyncio.create_task(scene.exchange())
        await issuer.somebody_waits.wait()
        await scene.contain("attesters", "platform", "disabled")
        issuer.gate.set()
        answer = await waiting
        assert answer.status_code == 400
        assert "disabled" in answer.json()["error_description"]


async def test_another_issuers_key_proves_nothing() -> None:
    """A token in one issuer's name, signed by another honest issuer, is refused."""
    async with verified() as it, FickleIssuer(clock=it.clock) as other:
        await it.accepts(it.token())
        posing = other.identity_token("job-7", AUDIENCE, {"iss": it.issuer.issuer})
        with pytest.raises(EvidenceRejected):
            await it.accepts(posing)
