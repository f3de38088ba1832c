"""Server nonces (RFC 9449 §8, §9): asked for where the configuration says so, good for a minute or two, ours alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker.client import BrokerAuth
from broker.settings import Tokens
from broker.tokens import nonces
from tests.build import es256
from tests.tokens.scene import Scene, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module, that requires nonces."""
    async with opened(tmp_path_factory.mktemp("broker"), tokens=Tokens(require_dpop_nonce=True)) as found:
        yield found


async def nonce_of(scene: Scene) -> str:
    """A nonce, got by asking without one."""
    answer = await scene.exchange()
    assert error_of(answer) == (400, "use_dpop_nonce")
    return str(answer.headers["dpop-nonce"])


async def test_a_proof_without_a_nonce_is_sent_back_for_one(scene: Scene) -> None:
    """RFC 9449 §8: 400 `use_dpop_nonce` with the nonce in a header; with it the same evidence is taken."""
    evidence = scene.run.evidence()
    first = await scene.exchange(evidence)
    assert error_of(first) == (400, "use_dpop_nonce")
    assert "www-authenticate" not in first.headers
    retried = await scene.exchange(evidence, proof=scene.proof(nonce=first.headers["dpop-nonce"]))
    assert retried.status_code == 200
    assert retried.headers["dpop-nonce"]


async def test_asking_for_a_nonce_is_counted_and_uses_nothing_up(scene: Scene) -> None:
    """A request that is sent back leaves no record, and its assertion is as good as before."""
    before = len(await scene.records())
    await scene.counted()
    assertion = scene.assertion()
    first = await scene.credentials(assertion)
    assert await scene.counted() == {"use_dpop_nonce": 1}
    assert len(await scene.records()) == before
    nonce = first.headers["dpop-nonce"]
    assert (await scene.credentials(assertion, proof=scene.proof(nonce=nonce))).status_code == 200


@pytest.mark.parametrize("nonce", ["", "x", "A" * 24, "0" * 256, "\x7f"])
async def test_a_made_up_nonce_is_refused(scene: Scene, nonce: str) -> None:
    """Only what this broker handed out is taken."""
    status, code = error_of(await scene.exchange(proof=scene.proof(nonce=nonce)))
    assert status == 400
    assert code in ("use_dpop_nonce", "invalid_dpop_proof")


async def test_a_nonce_is_good_in_its_minute_and_the_next(scene: Scene) -> None:
    """Then it is old: refused with a new one, however fresh the proof is."""
    scene.clock.advance(60 - scene.clock.now() % 60)
    nonce = await nonce_of(scene)
    for advance in (59, 60):
        scene.clock.advance(advance)
        assert (await scene.exchange(proof=scene.proof(nonce=nonce))).status_code == 200
    scene.clock.advance(1)
    answer = await scene.exchange(proof=scene.proof(nonce=nonce))
    assert error_of(answer) == (400, "use_dpop_nonce")
    assert answer.headers["dpop-nonce"] != nonce


async def test_a_nonce_makes_no_proof_good_twice(scene: Scene) -> None:
    """Nonce and replay memory are two controls; one does not stand in for the other."""
    proof = scene.proof(nonce=await nonce_of(scene))
    assert (await scene.exchange(proof=proof)).status_code == 200
    assert error_of(await scene.exchange(proof=proof)) == (400, "invalid_dpop_proof")


async def test_the_gateway_asks_with_401(scene: Scene) -> None:
    """RFC 9449 §9: a challenge with `use_dpop_nonce` and the nonce; with it the call passes."""
    key = es256()
    token = (await scene.exchange(key=key, proof=scene.proof(key, nonce=await nonce_of(scene)))).json()["access_token"]
    answer = await scene.call(token, key)
    assert answer.status_code == 401
    assert 'error="use_dpop_nonce"' in answer.headers["www-authenticate"]
    assert (await scene.call(token, key, nonce=answer.headers["dpop-nonce"])).status_code == 200
    scene.clock.advance(180)
    assert (await scene.call(token, key, nonce=answer.headers["dpop-nonce"])).status_code == 401


async def test_the_client_follows(scene: Scene) -> None:
    """BrokerAuth repeats with the nonce at the token endpoint and at the gateway, and needs no help."""
    client = await scene.run.client(BrokerAuth(scene.url, scene.run.evidence, clock=scene.clock))
    for _ in range(3):
        assert (await client.get("/openai/v1/models")).status_code == 200
        scene.clock.advance(150)


async def test_a_wrong_nonce_is_refused_where_none_is_needed(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Without the setting a proof needs none; one that it carries must be ours all the same."""
    async with opened(tmp_path_factory.mktemp("without")) as scene:
        assert error_of(await scene.exchange(proof=scene.proof(nonce="made-up"))) == (400, "use_dpop_nonce")
        ours = nonces.current(scene.run.broker.keys.nonce_key, scene.clock.now())
        answer = await scene.exchange(proof=scene.proof(nonce=ours))
        assert answer.status_code == 200
        assert "dpop-nonce" not in answer.headers
