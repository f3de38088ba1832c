"""DPoP at the token endpoint and behind it: a token is worth nothing without its key, and a proof nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker.entropy import new_id, system_entropy
from broker.formats import dpop, jwk
from tests.build import es256, thumbprint
from tests.formats.forge import p384, rsa
from tests.formats.forge import token as forged
from tests.tokens.scene import Scene, claims_of, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def test_a_token_is_bound_to_the_key_that_was_proved(scene: Scene) -> None:
    """RFC 9449 §6.1: `cnf.jkt` is the thumbprint of the proof's key."""
    key = es256()
    assert claims_of(await scene.exchange(key=key))["cnf"] == {"jkt": thumbprint(key)}
    assert claims_of(await scene.credentials(key=key))["cnf"] == {"jkt": thumbprint(key)}


async def test_without_a_proof_there_is_no_token(scene: Scene) -> None:
    """No policy permits a bearer token, so a proof is required; the refusal is recorded, for the evidence was good."""
    for answer in (await scene.exchange(proof=""), await scene.credentials(proof="")):
        assert error_of(answer) == (400, "invalid_dpop_proof")
        assert "DPoP proof is required" in answer.json()["error_description"]
        (record,) = await scene.records(answer)
        assert record.kind == "TokenRefused"
        assert record.groups["posture"]["confirmation"] == "none"


async def test_a_forgotten_proof_costs_the_evidence_nothing(scene: Scene) -> None:
    """Evidence or an assertion that was shown without a key binds to none: the same again, with a proof, is taken."""
    evidence, assertion = scene.run.evidence(), scene.assertion()
    assert (await scene.exchange(evidence, proof="")).status_code == 400
    assert (await scene.exchange(evidence)).status_code == 200
    assert (await scene.credentials(assertion, proof="")).status_code == 400
    assert (await scene.credentials(assertion)).status_code == 200


async def test_a_proof_works_once(scene: Scene) -> None:
    """RFC 9449 §11.1: the second use is refused and recorded, with other evidence as with the same."""
    key = es256()
    proof, evidence = scene.proof(key), scene.run.evidence()
    assert (await scene.exchange(evidence, proof=proof)).status_code == 200
    for again in (evidence, scene.run.evidence()):
        answer = await scene.exchange(again, proof=proof)
        assert error_of(answer) == (400, "invalid_dpop_proof")
        (record,) = await scene.records(answer)
        assert (record.kind, record.groups["decision"]["reason"]) == ("TokenRefused", "replayed_proof")
    assert error_of(await scene.credentials(proof=proof)) == (400, "invalid_dpop_proof")


async def test_of_eight_at_once_with_one_proof_one_passes(scene: Scene) -> None:
    """A race for one proof has one winner; every loser is on record."""
    proof = scene.proof()
    answers = await asyncio.gather(*(scene.exchange(scene.run.evidence(), proof=proof) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    for answer in answers:
        assert len(await scene.records(answer)) == 1


async def test_the_same_jti_under_another_key_is_another_proof(scene: Scene) -> None:
    """The `jti` is claimed under its key: nobody can use up a stranger's."""
    jti = new_id(system_entropy)
    assert (await scene.exchange(proof=scene.proof(jti=jti))).status_code == 200
    assert (await scene.exchange(proof=scene.proof(jti=jti))).status_code == 200


async def test_a_refused_request_uses_its_proof_up(scene: Scene) -> None:
    """What was recorded once is not tried again with the same proof."""
    proof = scene.proof()
    assert error_of(await scene.exchange(proof=proof, scope="x")) == (400, "invalid_scope")
    assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")


@pytest.mark.parametrize(("age_s", "status"), [(59, 200), (60, 200), (61, 400), (-5, 200), (-6, 400), (3600, 400)])
async def test_the_proofs_window_has_two_ends(scene: Scene, age_s: int, status: int) -> None:
    """RFC 9449 §4.3: sixty seconds back and five ahead, each second included, and not one more."""
    assert (await scene.exchange(proof=scene.proof(age_s=age_s))).status_code == status


async def test_a_replay_is_refused_to_the_end_of_the_window(scene: Scene) -> None:
    """The memory outlives the window at both ends: a proof from the future too is remembered until it is dead."""
    proof = scene.proof(age_s=-5)
    assert (await scene.exchange(proof=proof)).status_code == 200
    for _ in range(13):
        scene.clock.advance(5)
        assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")
    scene.clock.advance(1)
    answer = await scene.exchange(proof=proof)
    assert error_of(answer) == (400, "invalid_dpop_proof")
    assert "older than" in answer.json()["error_description"]


async def test_two_proofs_are_one_too_many(scene: Scene) -> None:
    """RFC 9449 §4.3: not more than one DPoP header, not even twice the same, and no list in one header."""
    one, other = scene.proof(), scene.proof()
    for pair in ((one, other), (one, one)):
        answer = await scene.exchange(headers=[("dpop", pair[0]), ("dpop", pair[1])])
        assert error_of(answer) == (400, "invalid_dpop_proof")
    assert error_of(await scene.exchange(proof=f"{one}, {other}")) == (400, "invalid_dpop_proof")
    assert (await scene.exchange(proof=one)).status_code == 200


async def test_a_proof_for_another_request_is_refused(scene: Scene) -> None:
    """RFC 9449 §4.3: `htm` and `htu` are those of this request."""
    wrong: list[dict[str, str]] = [
        {"method": "GET"},
        {"method": "post"},
        {"url": f"{scene.url}/token/"},
        {"url": f"{scene.url}/login"},
        {"url": f"{scene.url}/openai/v1/models"},
        {"url": "https://elsewhere.example/token"},
        {"url": scene.url.replace("127.0.0.1", "localhost") + "/token"},
        {"url": "/token"},
        {"url": ""},
    ]
    for changed in wrong:
        answer = await scene.exchange(proof=scene.proof(None, age_s=0, **changed))
        assert error_of(answer) == (400, "invalid_dpop_proof"), changed


async def test_the_url_compares_as_parsed(scene: Scene) -> None:
    """RFC 9449 §4.3: after normalisation, without query and fragment."""
    loud = scene.url.replace("http", "HTTP")
    for url in (f"{scene.url}/token?a=1#b", f"{loud}/token", f"{scene.url}/./token", f"{scene.url}/%74oken"):
        proof = dpop.prove(es256(), method="POST", url=url, now=scene.clock.now(), jti=new_id(system_entropy))
        assert (await scene.exchange(proof=proof)).status_code == 200, url


async def test_a_proof_by_an_algorithm_that_is_not_published_is_refused(scene: Scene) -> None:
    """RFC 9449 §4.3: only the algorithms that the metadata names; an RSA or P-384 key proves nothing here."""
    payload = {"jti": "j" * 22, "htm": "POST", "htu": f"{scene.url}/token", "iat": int(scene.clock.now())}
    for alg, key in (("ES384", p384()), ("RS256", rsa()), ("ES256", p384()), ("none", es256())):
        header = {"typ": "dpop+jwt", "alg": alg, "jwk": jwk.to_members(key.public_key())}
        assert error_of(await scene.exchange(proof=forged(header, payload, key))) == (400, "invalid_dpop_proof")


async def test_a_stolen_token_is_worth_nothing_without_its_key(scene: Scene) -> None:
    """At the gateway: no proof, a proof by another key, one for another token, or one as Bearer are all refused."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    assert (await scene.call(token, key)).status_code == 200
    thief = await scene.call(token, es256())
    assert thief.status_code == 401
    assert "another key" in thief.text
    other = (await scene.exchange(key=key)).json()["access_token"]
    assert (await scene.call(token, key, access_token=other)).status_code == 401
    for scheme in ("DPoP", "Bearer", "bearer", "dpop"):
        answer = await scene.http.get("/openai/v1/models", headers={"authorization": f"{scheme} {token}"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("DPoP ")


async def test_a_bound_token_with_a_good_proof_is_refused_as_bearer(scene: Scene) -> None:
    """RFC 9449 §7.2: a bound token is never taken under the Bearer scheme, not even with its proof."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    proof = scene.proof(key, method="GET", url=f"{scene.url}/openai/v1/models", access_token=token)
    answer = await scene.http.get("/openai/v1/models", headers={"authorization": f"Bearer {token}", "dpop": proof})
    assert answer.status_code == 401


async def test_a_call_has_one_proof(scene: Scene) -> None:
    """RFC 9449 §4.3 at the gateway: two good proofs are refused like none."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    made = {"method": "GET", "url": f"{scene.url}/openai/v1/models", "access_token": token}
    headers = [("authorization", f"DPoP {token}"), *(("dpop", scene.proof(key, age_s=0, **made)) for _ in range(2))]
    assert (await scene.http.get("/openai/v1/models", headers=headers)).status_code == 401


async def test_a_gateway_proof_works_once(scene: Scene) -> None:
    """The same proof at the gateway is refused the second time, and is none for the token endpoint."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    proof = scene.proof(key, method="GET", url=f"{scene.url}/openai/v1/models", access_token=token)
    headers = {"authorization": f"DPoP {token}", "dpop": proof}
    answers = await asyncio.gather(*(scene.http.get("/openai/v1/models", headers=headers) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")


async def test_an_agents_token_opens_no_api_route(scene: Scene) -> None:
    """A token is for one resource: the gateway's is refused at the API though its proof is good."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    proof = scene.proof(key, method="GET", url=f"{scene.url}/api/v1/agents", access_token=token)
    answer = await scene.http.get("/api/v1/agents", headers={"authorization": f"DPoP {token}", "dpop": proof})
    assert answer.status_code == 401
    assert "resource" in answer.json()["detail"]


@pytest.mark.parametrize(("left_s", "status"), [(1, 200), (0, 401), (-1, 401)])
async def test_a_token_is_dead_at_its_end(scene: Scene, left_s: int, status: int) -> None:
    """RFC 7519 §4.1.4: on `exp` it is refused, seen before or not."""
    key = es256()
    tokens = [(await scene.exchange(key=key)).json()["access_token"] for _ in range(2)]
    assert (await scene.call(tokens[0], key)).status_code == 200
    scene.clock.advance(300 - left_s)
    for token in tokens:
        assert (await scene.call(token, key)).status_code == status
