"""Evidence of a platform at `/token`: what its token must say, whose it is, and what becomes of its claims."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from broker import jobs
from broker.formats import base64url, jwk
from broker.identity.attesters.attester import parse
from broker.identity.attesters.oidc import attested
from tests.build import es256, thumbprint
from tests.formats.attacks import ORDER
from tests.formats.forge import resigned, rsa
from tests.formats.forge import token as forged
from tests.tokens.scene import ABSENT, CLIENT, Scene, claims_of, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


def evidence(scene: Scene, header: Mapping[str, Any] | None = None, key: Any = None, **changed: Any) -> str:
    """The platform's token with other claims or header members, signed by its newest key or by another one."""
    return with_claims(scene, changed, header, key)


def with_claims(
    scene: Scene, changed: Mapping[str, Any], header: Mapping[str, Any] | None = None, key: Any = None
) -> str:
    """The same, with claims whose names are no Python names."""
    kid, own = scene.run.platform._keys[-1]
    now = int(scene.clock.now())
    claims = {"iss": scene.run.platform.issuer, "sub": "job-7", "aud": scene.url, "iat": now, "exp": now + 300}
    claims = {name: value for name, value in {**claims, **changed}.items() if value != ABSENT}
    return forged({"alg": "ES256", "kid": kid, "typ": "JWT", **(header or {})}, claims, key or own)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": ABSENT}, "claim_missing"),
        ({"iss": "https://unknown.example"}, "evidence_rejected"),
        ({"iss": "{issuer}/"}, "evidence_rejected"),
        ({"iss": 7}, "claim_missing"),
        ({"sub": ABSENT}, "evidence_rejected"),
        ({"sub": ""}, "evidence_rejected"),
        ({"sub": "x" * 256}, "evidence_rejected"),
        ({"aud": ABSENT}, "claim_missing"),
        ({"aud": "https://elsewhere.example"}, "wrong_audience"),
        ({"aud": "{url}/"}, "wrong_audience"),
        ({"aud": "{url}/token"}, "wrong_audience"),
        ({"aud": ["https://elsewhere.example"]}, "wrong_audience"),
        ({"aud": []}, "claim_missing"),
        ({"aud": [["{url}"]]}, "claim_missing"),
        ({"exp": ABSENT}, "claim_missing"),
        ({"exp": None}, "claim_missing"),
        ({"exp": "soon"}, "claim_missing"),
        ({"exp": True}, "claim_missing"),
        ({"iat": ABSENT}, "claim_missing"),
        ({"iat": 31}, "issued_in_future"),
        ({"nbf": 31}, "not_yet_valid"),
        ({"exp": 86_401}, "lives_too_long"),
    ],
    ids=str,
)
async def test_evidence_with_a_wrong_claim_is_refused(scene: Scene, changed: dict[str, Any], reason: str) -> None:
    """One negative test per required claim; nothing is recorded of a stranger, and the reason is counted."""
    await scene.counted()
    before = len(await scene.records())
    now = int(scene.clock.now())
    claims: dict[str, Any] = {}
    for name, value in changed.items():
        if isinstance(value, str):
            value = value.replace("{url}", scene.url).replace("{issuer}", scene.run.platform.issuer)
        elif isinstance(value, int) and not isinstance(value, bool) and name != "iss":
            value += now
        claims[name] = value
    assert error_of(await scene.exchange(evidence(scene, **claims))) == (400, "invalid_request")
    assert await scene.counted() == {reason: 1}
    assert len(await scene.records()) == before


@pytest.mark.parametrize(
    ("claim", "seconds", "good"),
    [
        ("exp", 1, True),
        ("exp", 0, True),
        ("exp", -1, True),
        ("exp", -29, True),
        ("exp", -30, False),
        ("exp", -31, False),
        ("iat", 30, True),
        ("iat", 31, False),
        ("nbf", 30, True),
        ("nbf", 31, False),
    ],
)
async def test_the_platforms_clock_may_differ_by_thirty_seconds(
    scene: Scene, claim: str, seconds: int, good: bool
) -> None:
    """The leeway is thirty seconds at both ends; beyond it evidence is dead, or not born."""
    now = int(scene.clock.now())
    times = {"iat": now - 60, "exp": now + 60, claim: now + seconds}
    assert (await scene.exchange(with_claims(scene, times))).status_code == (200 if good else 400)


async def test_one_of_several_audiences_is_enough_for_a_platforms_token(scene: Scene) -> None:
    """RFC 7519 §4.1.3: the principal that processes it MUST be among the audiences."""
    assert (await scene.exchange(evidence(scene, aud=["https://a.example", scene.url]))).status_code == 200


async def test_only_the_attesters_algorithms_are_taken(scene: Scene) -> None:
    """RFC 8725 §3.1: an algorithm that is not on the attester's list is refused, though the key would fit."""
    for alg, key in (("RS256", rsa()), ("PS256", rsa()), ("HS256", None), ("none", None), ("ES384", None)):
        answer = await scene.exchange(evidence(scene, {"alg": alg}, key))
        assert error_of(answer) == (400, "invalid_request")


async def test_another_key_under_the_platforms_kid_is_refused(scene: Scene) -> None:
    """Unverified input decides nothing but which key to verify it with."""
    assert error_of(await scene.exchange(evidence(scene, key=es256()))) == (400, "invalid_request")
    mine = es256()
    for header in ({"jwk": jwk.to_members(mine.public_key())}, {"jku": "https://evil.example/jwks"}, {"kid": "mine"}):
        assert error_of(await scene.exchange(evidence(scene, header, mine))) == (400, "invalid_request")


async def test_a_disabled_attester_is_refused_at_once(scene: Scene) -> None:
    """Keycloak CVE-2026-1486: disabling ends every grant that rests on it, in the moment the admin is answered."""
    assert (await scene.exchange()).status_code == 200
    await scene.contain("attesters", "platform", "disabled")
    scene.clock.advance(601)
    fetches = dict(scene.run.platform.fetches)
    answer = await scene.exchange()
    assert scene.run.platform.fetches == fetches  # nor is its issuer asked for anything
    assert error_of(answer) == (400, "invalid_request")
    assert "platform is disabled" in answer.json()["error_description"]
    assert (await scene.credentials(scene.run.evidence())).status_code == 401
    assert (await scene.credentials()).status_code == 200
    await scene.apply(attesters={"platform": {**scene.run.world()["attesters"]["platform"], "status": "active"}})
    assert (await scene.exchange()).status_code == 200


async def test_bearer_evidence_belongs_to_the_first_key_that_used_it(scene: Scene) -> None:
    """The same key again is fine, another one is refused and recorded with the agent whose evidence it is."""
    token, key = scene.run.evidence(), es256()
    for _ in range(3):
        assert (await scene.exchange(token, key=key)).status_code == 200
    thief = es256()
    answer = await scene.exchange(token, key=thief)
    assert error_of(answer) == (400, "invalid_request")
    assert "bound to another key" in answer.json()["error_description"]
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("TokenRefused", "nightly")
    assert record.groups["who"] == {"agent": "nightly", "thumbprint": thumbprint(thief)}
    assert record.groups["decision"]["reason"] == "replayed_evidence"
    assert (await scene.exchange(token, key=key)).status_code == 200


async def test_of_two_keys_at_once_one_gets_the_evidence(scene: Scene) -> None:
    """A race of two keys for one piece of evidence has one winner, who keeps it."""
    for _ in range(4):
        token, keys = scene.run.evidence(), [es256() for _ in range(5)]
        answers = await asyncio.gather(*(scene.exchange(token, key=key) for key in keys))
        assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
        again = await asyncio.gather(*(scene.exchange(token, key=key) for key in keys))
        assert [answer.status_code for answer in again] == [answer.status_code for answer in answers]


async def test_a_second_signature_makes_no_second_evidence(scene: Scene) -> None:
    """Of an ECDSA signature (r, s) anybody can make (r, n - s): what was signed stays bound all the same."""
    token = scene.run.evidence()
    assert (await scene.exchange(token)).status_code == 200
    signature = base64url.decode(token.rpartition(".")[2])
    r, s = signature[:32], int.from_bytes(signature[32:], "big")
    other = resigned(token, r + (ORDER - s).to_bytes(32, "big"))
    assert other != token
    assert encode_dss_signature(int.from_bytes(r, "big"), ORDER - s)
    answer = await scene.exchange(other)
    assert error_of(answer) == (400, "invalid_request")
    assert "bound to another key" in answer.json()["error_description"]


async def test_bound_evidence_stays_bound_to_its_end(scene: Scene) -> None:
    """As long as its times would let it in, another key is refused."""
    token = scene.run.evidence()
    assert (await scene.exchange(token)).status_code == 200
    scene.clock.advance(329)
    await jobs.prune(scene.run.broker)
    assert "bound to another key" in (await scene.exchange(token)).json()["error_description"]
    scene.clock.advance(1)
    assert "expired" in (await scene.exchange(token)).json()["error_description"]


async def test_an_attester_may_demand_one_use(scene: Scene) -> None:
    """With `one_use` the second presentation is refused, also under the same key."""
    spec = scene.run.world()["attesters"]["platform"]
    await scene.apply(attesters={"platform": {**spec, "one_use": True}})
    token, key = scene.run.evidence(), es256()
    assert (await scene.exchange(token, key=key)).status_code == 200
    answer = await scene.exchange(token, key=key)
    assert error_of(answer) == (400, "invalid_request")
    assert "used already" in answer.json()["error_description"]
    (record,) = await scene.records(answer)
    assert record.groups["decision"]["reason"] == "replayed_evidence"
    answers = await asyncio.gather(*[scene.exchange(once, key=key) for once in [scene.run.evidence()] for _ in "four"])
    assert sorted(a.status_code for a in answers) == [200, 400, 400, 400]
    await scene.apply(attesters={"platform": spec})


async def test_evidence_without_a_rule_is_refused_and_recorded(scene: Scene) -> None:
    """Good evidence of an unknown workload: no agent, and the record says which attester and subject."""
    answer = await scene.exchange(scene.run.evidence("job-8"))
    assert error_of(answer) == (400, "invalid_request")
    assert "No enrolment rule" in answer.json()["error_description"]
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("TokenRefused", "unknown")
    assert record.groups["for_whom"]["subject"] == "job-8"
    assert record.groups["posture"]["attester"] == "platform"
    assert record.groups["decision"]["reason"] == "not_enrolled"


async def test_a_subject_cannot_pose_as_a_registered_client(scene: Scene) -> None:
    """A platform's subject that has a client's name is nobody until a rule says so."""
    assert error_of(await scene.exchange(scene.run.evidence(CLIENT))) == (400, "invalid_request")
    assert claims_of(await scene.exchange())["sub"] == "nightly"


@pytest.mark.parametrize(
    "claims",
    [
        {f"claim-{n}": "x" for n in range(64)},
        {"nested": {f"claim-{n}": "x" for n in range(64)}},
        {"long": "x" * 1025},
        {"number": 10**1025},
        {"list": ["x"] * 257},
        {"list": ["x" * 1025]},
    ],
    ids=lambda value: str(value)[:30],
)
async def test_too_many_or_too_long_claims_are_refused(scene: Scene, claims: dict[str, object]) -> None:
    """Nothing is cut short: a forbid that looks for what was cut would no longer find it. Fails closed."""
    answer = await scene.exchange(with_claims(scene, claims))
    assert error_of(answer) == (400, "invalid_request")


async def test_claims_become_tags_and_lists() -> None:
    """Texts, numbers and booleans are tags, lists of them are sets, members of objects have paths."""
    spec = {"kind": "oidc", "issuer": "https://i.example", "audience": "https://b.example"}
    claims: dict[str, Any] = {
        "sub": "s",
        "exp": 1_800_000_000,
        "repository": "acme/etl",
        "admin": True,
        "guest": False,
        "zero": 0,
        "nothing": None,
        "half": 0.5,
        "groups": ["a", "b", 7, 1.5, True],
        "empty": [],
        "kubernetes.io": {"namespace": "prod", "pod": {"name": "x"}, "roles": ["r"]},
        "https://x.example/claim": "v",
        "a/b": "flat",
        "a": {"b": "nested", "~": "tilde"},
    }
    found = attested("h.p.s", parse("platform", spec), claims)
    assert found.principal.attrs == {"issuer": "https://i.example", "subject": "s"}
    assert found.principal.tags == {
        "sub": "s",
        "exp": "1800000000",
        "repository": "acme/etl",
        "admin": "true",
        "guest": "false",
        "zero": "0",
        "half": "0.5",
        "kubernetes.io/namespace": "prod",
        "kubernetes.io/pod/name": "x",
        "https:~1~1x.example~1claim": "v",
        "a~1b": "flat",
        "a/b": "nested",
        "a/~0": "tilde",
    }
    assert found.lists.attrs == {}
    assert found.lists.tags == {
        "groups": ["a", "b", "7", "1.5", "true"],
        "empty": [],
        "kubernetes.io/roles": ["r"],
    }


@pytest.mark.parametrize(
    "claims",
    [
        {"x\x00y": "a\x00b"},
        {"__entity": {"type": "Agent", "id": "nightly"}},
        {"__extn": {"fn": "ip", "arg": "127.0.0.1"}},
        {"x": {"__entity": {"type": "Agent", "id": "nightly"}}},
        {"": "empty name"},
        {'"': '"', "\\": "\\", "\u202e": "\u202e", "💥": "💥"},
        {"list": ["\x00", "💥", ""]},
        {"principal": "x", "issuer": "https://evil.example", "subject": "job-8"},
    ],
    ids=str,
)
async def test_strange_claims_mean_nothing_else(scene: Scene, claims: dict[str, object]) -> None:
    """Names and values of a platform's choice stay texts: the agent is the one that the rule names."""
    answer = await scene.exchange(with_claims(scene, claims))
    assert answer.status_code == 200, answer.text
    assert claims_of(answer)["sub"] == "nightly"
