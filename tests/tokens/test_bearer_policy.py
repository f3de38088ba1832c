"""Bearer tokens: none, unless a policy permits them for a principal; and bound tokens never pass for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio

from tests.build import es256
from tests.tokens.scene import CLIENT, OTHER_CLIENT, Scene, claims_of, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = f"""
@id("batch-bearer")
permit (principal == Agent::"{CLIENT}", action == Action::"exchange", resource is Audience)
when {{ resource.kind == "gateway" && context.confirmation == "none" && context.lifetime_s <= 300 }};
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module, whose policies let one client have bearer tokens."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        await found.apply(policies={"bearer.cedar": POLICY})
        yield found


async def models(scene: Scene, authorization: str, proof: str = "") -> httpx2.Response:
    """Asks the gateway for its models."""
    headers = {"authorization": authorization, **({"dpop": proof} if proof else {})}
    return await scene.http.get("/openai/v1/models", headers=headers)


async def test_a_policy_may_permit_a_bearer_token(scene: Scene) -> None:
    """The token says Bearer, is bound to nothing, opens the gateway; the record says so."""
    answer = await scene.credentials(proof="")
    claims = claims_of(answer)
    assert answer.json()["token_type"] == "Bearer"
    assert "cnf" not in claims
    assert "instance" not in claims
    token = answer.json()["access_token"]
    for scheme in ("Bearer", "bearer", "BEARER"):
        listed = await models(scene, f"{scheme} {token}")
        assert [model["id"] for model in listed.json()["data"]] == ["stand-in-small"]
    (record,) = await scene.records(answer)
    assert record.groups["posture"]["confirmation"] == "none"
    assert record.groups["decision"]["policies"] == ["batch-bearer"]


async def test_the_permission_is_for_that_principal_alone(scene: Scene) -> None:
    """Every other client and agent still needs its proof."""
    for answer in (await scene.credentials(client=OTHER_CLIENT, proof=""), await scene.exchange(proof="")):
        assert error_of(answer) == (400, "invalid_dpop_proof")


async def test_with_a_proof_the_token_is_bound_all_the_same(scene: Scene) -> None:
    """Who may have a bearer token and shows a key gets a bound one, which is refused as Bearer."""
    key = es256()
    answer = await scene.credentials(key=key)
    assert answer.json()["token_type"] == "DPoP"
    token = answer.json()["access_token"]
    assert (await models(scene, f"Bearer {token}")).status_code == 401
    assert (await scene.call(token, key)).status_code == 200


async def test_a_bearer_token_is_refused_as_dpop(scene: Scene) -> None:
    """A token without a key cannot be shown under the DPoP scheme, whatever proof comes with it."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    proof = scene.proof(method="GET", url=f"{scene.url}/openai/v1/models", access_token=token)
    assert (await models(scene, f"DPoP {token}", proof)).status_code == 401


async def test_an_assertion_for_a_bearer_token_works_once_too(scene: Scene) -> None:
    """Without a proof the assertion is spent by the token it bought."""
    assertion = scene.assertion()
    assert (await scene.credentials(assertion, proof="")).status_code == 200
    for proof in ("", None):
        assert error_of(await scene.credentials(assertion, proof=proof)) == (401, "invalid_client")


async def test_evidence_that_bought_a_bearer_token_is_bound_to_no_key(scene: Scene) -> None:
    """Evidence used without a key stays so: whoever comes with a key afterwards is refused."""
    policy = POLICY.replace(CLIENT, "nightly").replace("batch-bearer", "nightly-bearer")
    await scene.apply(policies={"nightly-bearer.cedar": policy})
    evidence = scene.run.evidence()
    assert (await scene.exchange(evidence, proof="")).json()["token_type"] == "Bearer"
    assert (await scene.exchange(evidence, proof="")).status_code == 200
    assert "bound to another key" in (await scene.exchange(evidence)).json()["error_description"]
    bound = scene.run.evidence()
    assert (await scene.exchange(bound)).status_code == 200
    assert "bound to another key" in (await scene.exchange(bound, proof="")).json()["error_description"]
    await scene.apply(policies={"nightly-bearer.cedar": None})


async def test_tokens_with_a_common_beginning_are_told_apart(scene: Scene) -> None:
    """LiteLLM CVE-2026-35030: what is remembered is remembered of the whole token, never of how it begins."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    assert (await models(scene, f"Bearer {token}")).status_code == 200
    head, payload, signature = token.split(".")
    other = "B" if signature[10] == "A" else "A"
    for wrong in (
        token[:20],
        token[:-1],
        token + "A",
        f"{head}.{payload}.{signature[:10]}{other}{signature[11:]}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
    ):
        assert (await models(scene, f"Bearer {wrong}")).status_code == 401
    assert (await models(scene, f"Bearer {token}")).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "DPoP",
        "Basic {token}",
        "{token}",
        "Bearer{token}",
        "Bearer {token} {token}",
        "Bearer \xff",
    ],
)
async def test_another_authorization_header_is_401(scene: Scene, value: str) -> None:
    """RFC 6750 §3, RFC 9449 §7: anything that is no token under its scheme gets a challenge."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    _, _, port = scene.url.rpartition(":")
    line = f"authorization: {value.replace('{token}', token)}"
    answer = await scene.raw("GET /openai/v1/models HTTP/1.1", f"host: 127.0.0.1:{port}", line)
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"www-authenticate: DPoP " in answer


async def test_two_authorization_headers_are_refused(scene: Scene) -> None:
    """No choice between two tokens, not even between twice the same."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    headers = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]
    assert (await scene.http.get("/openai/v1/models", headers=headers)).status_code == 401


async def test_a_token_in_the_url_or_the_body_is_not_read(scene: Scene) -> None:
    """RFC 6750 §2.2 and §2.3 are not offered: tokens in URLs end in logs (RFC 9700 §4.3.2)."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    answer = await scene.http.get(f"/openai/v1/models?access_token={token}")
    assert answer.status_code in (400, 401)
    posted = await scene.http.post("/openai/v1/chat/completions", data={"access_token": token})
    assert posted.status_code == 401


async def test_a_bearer_token_ends_with_its_principal(scene: Scene) -> None:
    """A suspended client's bearer token calls nothing from that moment."""
    token = (await scene.credentials(proof="")).json()["access_token"]
    await scene.contain("agents", CLIENT, "suspended")
    answer = await models(scene, f"Bearer {token}")
    assert answer.status_code == 403 or answer.json()["data"] == []
