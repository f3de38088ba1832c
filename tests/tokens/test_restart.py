"""What a restart must not forget: nothing that was used once, no binding, no key, no instance."""

from __future__ import annotations

from pathlib import Path

from tests.build import es256
from tests.tokens.scene import error_of, restartable


async def test_nothing_that_was_used_works_again_after_a_restart(tmp_path: Path) -> None:
    """Proofs and assertions are refused after a restart as before it, to the end of their time."""
    async with restartable(tmp_path) as again:
        async with again.opened() as scene:
            key = es256()
            proof, assertion = scene.proof(key), scene.assertion()
            assert (await scene.exchange(proof=proof)).status_code == 200
            assert (await scene.credentials(assertion)).status_code == 200
        async with again.opened() as scene:
            replayed = await scene.exchange(proof=proof)
            assert error_of(replayed) == (400, "invalid_dpop_proof")
            assert "used before" in replayed.json()["error_description"]
            replayed = await scene.credentials(assertion)
            assert error_of(replayed) == (401, "invalid_client")
            assert "used before" in replayed.json()["error_description"]
            scene.clock.advance(59)
            assert "used before" in (await scene.exchange(proof=proof)).json()["error_description"]
            assert "used before" in (await scene.credentials(assertion)).json()["error_description"]


async def test_evidence_stays_bound_after_a_restart(tmp_path: Path) -> None:
    """Bearer evidence that one key has used is that key's after a restart: same key fine, another one refused."""
    async with restartable(tmp_path) as again:
        async with again.opened() as scene:
            key, evidence = es256(), scene.run.evidence()
            assert (await scene.exchange(evidence, key=key)).status_code == 200
        async with again.opened() as scene:
            assert (await scene.exchange(evidence, key=key)).status_code == 200
            stolen = await scene.exchange(evidence)
            assert error_of(stolen) == (400, "invalid_request")
            assert "bound to another key" in stolen.json()["error_description"]


async def test_tokens_and_instances_survive_a_restart(tmp_path: Path) -> None:
    """A token that was issued before is good after; its instance is known; the same key signs on."""
    async with restartable(tmp_path) as again:
        async with again.opened() as scene:
            key = es256()
            token = (await scene.exchange(key=key)).json()["access_token"]
            before = scene.run.broker.keys.jwks()
            instances = scene.run.broker.instances.of("nightly")
        async with again.opened() as scene:
            assert scene.run.broker.keys.jwks() == before
            assert scene.run.broker.instances.of("nightly") == instances
            assert (await scene.call(token, key)).status_code == 200


async def test_a_refused_request_is_remembered_after_a_restart(tmp_path: Path) -> None:
    """A refusal is as durable as a permit: its proof and its assertion stay used."""
    async with restartable(tmp_path) as again:
        async with again.opened() as scene:
            proof, assertion = scene.proof(), scene.assertion()
            assert error_of(await scene.credentials(assertion, proof=proof, scope="x")) == (400, "invalid_scope")
        async with again.opened() as scene:
            assert "used before" in (await scene.credentials(assertion)).json()["error_description"]
            assert "used before" in (await scene.exchange(proof=proof)).json()["error_description"]
            assert "TokenRefused" in await scene.run.kinds()
