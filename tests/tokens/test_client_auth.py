"""private_key_jwt: a registered key, an assertion for this server alone, used once. RFC 7523 §3, RFC 7521 §4.2."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker import jobs
from broker.entropy import new_id, system_entropy
from broker.formats import jwk
from broker.settings import Tokens
from tests.build import es256, thumbprint
from tests.formats.forge import ed25519, p384, part, resigned, rsa
from tests.tokens.scene import (
    ABSENT,
    CLIENT,
    EXCHANGE,
    JWT,
    OTHER_CLIENT,
    Scene,
    claims_of,
    client_spec,
    error_of,
    opened,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAYS = ["client_credentials", "token-exchange"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def ask(scene: Scene, way: str, assertion: str, key: ec.EllipticCurvePrivateKey | None = None) -> httpx2.Response:
    """Shows an assertion in one of the two ways that take it, under a fresh key unless told otherwise."""
    if way == "client_credentials":
        return await scene.credentials(assertion, key=key)
    return await scene.exchange(assertion, key=key)


def refused(way: str) -> tuple[int, str]:
    """The error of the two ways: RFC 7521 §4.2.1 for a client, RFC 8693 §2.2.2 for a subject token."""
    return (401, "invalid_client") if way == "client_credentials" else (400, "invalid_request")


@pytest.mark.parametrize("way", WAYS)
async def test_an_assertion_of_a_registered_key_gets_a_token(scene: Scene, way: str) -> None:
    """As client authentication and as subject token; the token is for the principal whose key signed."""
    answer = await ask(scene, way, scene.assertion())
    claims = claims_of(answer)
    assert (claims["sub"], claims["client_id"]) == (CLIENT, CLIENT)
    (record,) = await scene.records(answer)
    assert record.groups["posture"]["attester"] == "registered-keys"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"aud": "{url}/token"}, "wrong_audience"),
        ({"aud": "{url}/"}, "wrong_audience"),
        ({"aud": ["{url}", "https://elsewhere.example"]}, "wrong_audience"),
        ({"aud": ["{url}", "{url}/token"]}, "wrong_audience"),
        ({"aud": "https://elsewhere.example"}, "wrong_audience"),
        ({"aud": []}, "claim_missing"),
        ({"aud": ABSENT}, "claim_missing"),
        ({"sub": OTHER_CLIENT}, "evidence_rejected"),
        ({"sub": ABSENT}, "evidence_rejected"),
        ({"sub": [CLIENT]}, "evidence_rejected"),
        ({"iss": ABSENT}, "claim_missing"),
        ({"iss": "nobody"}, "evidence_rejected"),
        ({"iss": OTHER_CLIENT, "sub": OTHER_CLIENT}, "invalid_signature"),
        ({"jti": ABSENT}, "evidence_rejected"),
        ({"jti": ""}, "evidence_rejected"),
        ({"jti": 7}, "evidence_rejected"),
        ({"jti": "x" * 257}, "evidence_rejected"),
        ({"exp": ABSENT}, "claim_missing"),
        ({"exp": "1800000060"}, "claim_missing"),
        ({"iat": ABSENT}, "claim_missing"),
        ({"exp": 3601}, "lives_too_long"),
        ({"exp": -30}, "expired"),
        ({"iat": 31, "exp": 60}, "issued_in_future"),
        ({"nbf": 31}, "not_yet_valid"),
    ],
    ids=str,
)
async def test_an_assertion_with_a_wrong_claim_is_refused(
    scene: Scene, way: str, changed: dict[str, Any], reason: str
) -> None:
    """One negative test per claim (SPIRE 1.12.3: a missing `exp` is no licence). Numbers count from now."""
    await scene.counted()
    now = int(scene.clock.now())
    claims: dict[str, Any] = {}
    for name, value in changed.items():
        if isinstance(value, str):
            value = value.replace("{url}", scene.url)
        elif isinstance(value, list):
            value = [item.replace("{url}", scene.url) for item in value]
        elif name in {"exp", "iat", "nbf"}:
            value += now
        claims[name] = value
    assert error_of(await ask(scene, way, scene.assertion(**claims))) == refused(way)
    assert await scene.counted() == {reason: 1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("seconds", "good"), [(-29, True), (-30, False), (-31, False)])
async def test_an_assertion_ends_within_the_leeway(scene: Scene, way: str, seconds: int, good: bool) -> None:
    """`exp` may lie up to thirty seconds back for the clients' clocks, that second not included."""
    now = int(scene.clock.now())
    answer = await ask(scene, way, scene.assertion(iat=now - 60, exp=now + seconds))
    assert (answer.status_code == 200) is good


@pytest.mark.parametrize("way", WAYS)
async def test_an_assertion_lives_an_hour_at_most(scene: Scene, way: str) -> None:
    """`exp - iat` of 3600 seconds is taken, one more is not; a longer one would be remembered too long."""
    now = int(scene.clock.now())
    assert (await ask(scene, way, scene.assertion(exp=now + 3600))).status_code == 200
    assert error_of(await ask(scene, way, scene.assertion(exp=now + 3601))) == refused(way)


@pytest.mark.parametrize("way", WAYS)
async def test_an_assertion_works_once(scene: Scene, way: str) -> None:
    """RFC 7523 §3: the second use is refused and recorded; also the same `jti` in other bytes, or in the other way."""
    jti = new_id(system_entropy)
    assertion = scene.assertion(jti=jti)
    assert (await ask(scene, way, assertion)).status_code == 200
    for other_way in WAYS:
        for again in (assertion, scene.assertion(jti=jti), scene.assertion(jti=jti, exp=int(scene.clock.now()) + 61)):
            answer = await ask(scene, other_way, again)
            assert error_of(answer) == refused(other_way)
            (record,) = await scene.records(answer)
            assert record.groups["decision"]["reason"] == "replayed_evidence"
            assert record.agent == CLIENT


@pytest.mark.parametrize("way", WAYS)
async def test_an_assertion_works_once_under_one_key_too(scene: Scene, way: str) -> None:
    """Unlike a platform's token it does not bind to a key: its own holder signs a new one every time."""
    key, assertion = es256(), scene.assertion()
    asked = [await ask(scene, way, assertion, key=key) for _ in range(2)]
    assert asked[0].status_code == 200
    assert error_of(asked[1]) == refused(way)


async def test_an_assertion_is_remembered_to_the_end_of_its_leeway(scene: Scene) -> None:
    """As long as it would still be taken by its times, it is remembered."""
    assertion = scene.assertion()
    assert (await scene.credentials(assertion)).status_code == 200
    scene.clock.advance(89)
    await jobs.prune(scene.run.broker)
    assert "used before" in (await scene.credentials(assertion)).json()["error_description"]
    scene.clock.advance(1)
    assert "expired" in (await scene.credentials(assertion)).json()["error_description"]


@pytest.mark.parametrize("way", WAYS)
async def test_of_two_at_once_with_one_assertion_one_passes(scene: Scene, way: str) -> None:
    """SPIRE join token 1.14.6: check and use are one step, so that a race has exactly one winner."""
    for _ in range(4):
        assertion = scene.assertion()
        answers = await asyncio.gather(*(ask(scene, way, assertion) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200] + [refused(way)[0]] * 4


@pytest.mark.parametrize("way", WAYS)
async def test_an_unregistered_key_is_refused(scene: Scene, way: str) -> None:
    """Another key of the right kind, with the registered key's thumbprint for a name, proves nothing."""
    name = thumbprint(scene.keys[CLIENT])
    for header in ({}, {"kid": name}, {"kid": "x"}):
        assert error_of(await ask(scene, way, scene.assertion(key=es256(), header=header))) == refused(way)


@pytest.mark.parametrize("way", WAYS)
async def test_another_clients_key_is_refused(scene: Scene, way: str) -> None:
    """Only the keys registered for the principal that the assertion names are tried."""
    other = scene.assertion(CLIENT, key=scene.keys[OTHER_CLIENT])
    assert error_of(await ask(scene, way, other)) == refused(way)


@pytest.mark.parametrize("way", WAYS)
async def test_the_algorithm_belongs_to_the_registered_key(scene: Scene, way: str) -> None:
    """RFC 8725 §2.1, §3.1: "none", HMAC keyed with the public key, another curve or key type: all refused."""
    public = scene.keys[CLIENT].public_key()
    members = jwk.to_members(public)
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        base64.urlsafe_b64decode(members["x"] + "=="),
        b"",
    ]
    tokens = []
    for alg in ("HS256", "ES256", "none"):
        signing_input = scene.assertion(header={"alg": alg}).rpartition(".")[0]
        for secret in secrets:
            mac = hmac.new(secret, signing_input.encode(), hashlib.sha256).digest()
            tokens.append(f"{signing_input}.{part(mac)}")
    for alg in ("none", "None", "NONE"):
        tokens += [resigned(scene.assertion(header={"alg": alg}), b""), scene.assertion(header={"alg": alg})]
    tokens += [
        scene.assertion(key=rsa(), header={"alg": "RS256"}),
        scene.assertion(key=p384(), header={"alg": "ES384"}),
        scene.assertion(key=ed25519(), header={"alg": "EdDSA"}),
        scene.assertion(header={"alg": "ES384"}),
    ]
    for token in tokens:
        assert error_of(await ask(scene, way, token)) == refused(way), token


@pytest.mark.parametrize("way", WAYS)
async def test_an_assertion_brings_no_key_of_its_own(scene: Scene, way: str) -> None:
    """RFC 8725 §3.10: an embedded key, its address or a certificate is refused, though its signature verifies."""
    key = es256()
    mine = jwk.to_members(key.public_key())
    for header in ({"jwk": mine}, {"jku": f"{scene.run.platform.issuer}/jwks"}, {"x5u": "https://evil.example"}):
        before = dict(scene.run.platform.fetches)
        assert error_of(await ask(scene, way, scene.assertion(key=key, header=header))) == refused(way)
        assert scene.run.platform.fetches == before


@pytest.mark.parametrize("typ", ["JWT", "jwt", "client-authentication+jwt", "application/jwt", ABSENT])
async def test_the_types_that_clients_send_are_taken(scene: Scene, typ: str) -> None:
    """RFC 7523 names no type and its successor does; libraries say JWT."""
    assert (await scene.credentials(scene.assertion(header={"typ": typ}))).status_code == 200


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "logout+jwt", "", 1])
async def test_a_token_of_another_type_is_no_assertion(scene: Scene, typ: object) -> None:
    """RFC 8725 §3.11: what was made for something else authenticates nobody."""
    assert error_of(await scene.credentials(scene.assertion(header={"typ": typ}))) == (401, "invalid_client")


async def test_our_own_tokens_and_proofs_are_no_evidence(scene: Scene) -> None:
    """An access token of ours or a proof, shown as subject token or assertion, gets nothing."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    for text in (token, scene.proof(key), scene.proof(scene.keys[CLIENT])):
        for way in WAYS:
            assert error_of(await ask(scene, way, text)) == refused(way)


async def test_the_method_comes_from_what_is_registered(scene: Scene) -> None:
    """A client with a registered key is not let in by naming itself, by a secret, or by both ways at once."""
    fields = {"grant_type": "client_credentials", "client_id": CLIENT}
    assert error_of(await scene.post(fields)) == (401, "invalid_client")
    assert error_of(await scene.post({**fields, "client_secret": "x"})) == (400, "invalid_request")
    both = await scene.credentials(client_secret="x")
    assert error_of(both) == (400, "invalid_request")
    platform = {"grant_type": EXCHANGE, "subject_token": scene.run.evidence(), "subject_token_type": JWT}
    beside = await scene.post({**platform, "client_id": CLIENT})
    assert claims_of(beside)["sub"] == "nightly"


async def test_a_platforms_token_is_no_client_assertion(scene: Scene) -> None:
    """An attester's evidence authenticates no client, not even when its subject has a client's name."""
    for evidence in (scene.run.evidence(), scene.run.evidence(CLIENT)):
        assert error_of(await scene.credentials(evidence)) == (401, "invalid_client")


async def test_a_client_id_beside_the_assertion_must_be_its_own(scene: Scene) -> None:
    """RFC 7521 §4.2: a `client_id` that is sent identifies the same client as the assertion."""
    assert (await scene.credentials(client_id=CLIENT)).status_code == 200
    assert error_of(await scene.credentials(client_id=OTHER_CLIENT)) == (401, "invalid_client")


@pytest.mark.parametrize("status", ["suspended", "revoked"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_stopped_client_gets_no_token(scene: Scene, way: str, status: str) -> None:
    """From the moment of the containment, with the reason on record; the token that is out calls nothing."""
    name, key, holder = f"stopped-{status}-{way}", es256(), es256()
    await scene.apply(agents={name: client_spec(key)})
    scene.keys[name] = key
    token = (await scene.credentials(client=name, key=holder)).json()["access_token"]
    assert (await scene.call(token, holder)).json()["data"] != []
    await scene.contain("agents", name, status)
    answer = await ask(scene, way, scene.assertion(name))
    assert error_of(answer) == (400, "invalid_target")
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("TokenRefused", name)
    assert "inactive-agents-exchange" in record.groups["posture"]["why"]
    listed = await scene.call(token, holder)
    assert listed.status_code == 403 or listed.json()["data"] == []


@pytest.mark.parametrize("way", WAYS)
async def test_each_of_several_keys_signs_on(scene: Scene, way: str) -> None:
    """Keys without a name are told apart by their signatures, so that a client can change keys without a pause."""
    name, keys = f"two-keys-{way}", [es256(), es256()]
    await scene.apply(agents={name: client_spec(None, keys=[jwk.to_members(k.public_key()) for k in keys])})
    for key in keys:
        assert (await ask(scene, way, scene.assertion(name, key=key))).status_code == 200
    assert error_of(await ask(scene, way, scene.assertion(name, key=es256()))) == refused(way)


async def test_a_removed_key_is_refused_at_once(scene: Scene) -> None:
    """What is registered now decides, not what was."""
    name, old, new = "changed-key", es256(), es256()
    await scene.apply(agents={name: client_spec(old)})
    assert (await scene.credentials(scene.assertion(name, key=old))).status_code == 200
    await scene.apply(agents={name: client_spec(new)})
    assert error_of(await scene.credentials(scene.assertion(name, key=old))) == (401, "invalid_client")
    assert (await scene.credentials(scene.assertion(name, key=new))).status_code == 200


@pytest.mark.parametrize("way", WAYS)
async def test_a_disabled_attester_of_keys_is_refused_at_once(scene: Scene, way: str) -> None:
    """Keycloak CVE-2026-1486: disabling is immediate, on every grant. The admin in charge keeps a token for it."""
    name = "no-keys"
    key = es256()
    await scene.apply(agents={name: client_spec(key)})
    assert (await scene.admin.get("/api/v1/whoami")).status_code == 200
    await scene.contain("attesters", "registered-keys", "disabled")
    answer = await ask(scene, way, scene.assertion(name, key=key))
    assert error_of(answer) == refused(way)
    assert "disabled" in answer.json()["error_description"]
    await scene.apply(attesters={"registered-keys": {"kind": "key", "status": "active"}})
    assert (await ask(scene, way, scene.assertion(name, key=key))).status_code == 200


async def test_policies_see_the_thumbprint_of_the_key(scene: Scene) -> None:
    """KeyEvidence.thumbprint is that of the key that signed, so that a rule can speak about one key of several."""
    name, good, bad = "by-thumbprint", es256(), es256()
    await scene.apply(
        agents={name: client_spec(None, keys=[jwk.to_members(k.public_key()) for k in (good, bad)])},
        policies={
            "thumbprint.cedar": f'''
            @id("one-key-of-two")
            forbid (principal is KeyEvidence, action == Action::"enrol", resource)
            when {{ principal.agent == "{name}" && principal.thumbprint != "{thumbprint(good)}" }};'''
        },
    )
    assert (await scene.credentials(scene.assertion(name, key=good))).status_code == 200
    answer = await scene.credentials(scene.assertion(name, key=bad))
    assert error_of(answer) == (400, "invalid_request")
    await scene.apply(policies={"thumbprint.cedar": None})


async def test_a_key_keeps_the_algorithm_it_was_registered_with(tmp_path_factory: pytest.TempPathFactory) -> None:
    """RFC 8725 §3.1: an RSA key registered for PS256 takes no RS256, before and after a restart."""
    folder = tmp_path_factory.mktemp("rsa")
    members = {**jwk.to_members(rsa().public_key()), "alg": "PS256"}
    async with opened(folder) as scene:
        await scene.apply(agents={"rsa-client": client_spec(None, keys=[members])})
        clock, keys = scene.clock, scene.keys
    async with opened(folder, clock=clock, keys=keys) as scene:
        assert scene.run.broker.directory.agents["rsa-client"].keys[0].algorithms == {"PS256"}
        rs256 = scene.assertion("rsa-client", key=rsa(), header={"alg": "RS256"})
        assert error_of(await scene.credentials(rs256)) == (401, "invalid_client")


async def test_the_token_endpoint_is_an_audience_only_by_setting(tmp_path_factory: pytest.TempPathFactory) -> None:
    """accept_token_endpoint_audience lets older libraries in: issuer or endpoint, each alone, and nothing else."""
    tokens = Tokens(accept_token_endpoint_audience=True)
    async with opened(tmp_path_factory.mktemp("compatible"), tokens=tokens) as scene:
        for aud in (scene.url, f"{scene.url}/token", [f"{scene.url}/token"]):
            assert (await scene.credentials(scene.assertion(aud=aud))).status_code == 200
        for aud in ([scene.url, f"{scene.url}/token"], f"{scene.url}/login", "https://elsewhere.example"):
            assert error_of(await scene.credentials(scene.assertion(aud=aud))) == (401, "invalid_client")
        twice = scene.assertion(aud=f"{scene.url}/token")
        answers = [(await scene.credentials(twice)).status_code for _ in range(2)]
        assert answers == [200, 401]
