"""What an exchange leaves behind: one record that says who, for whom, what and why; and no secret anywhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from broker import jobs
from tests.build import es256, running, thumbprint
from tests.databases import stored_bytes
from tests.fakes import FakeClock
from tests.tokens.scene import CLIENT, Gate, Scene, claims_of, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


def sha256(text: str) -> str:
    """The digest under which a token or evidence is recorded."""
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_permit_tells_all_groups(scene: Scene) -> None:
    """Who, for whom, what, decision with its inputs, request, posture: each as it was, by digests alone."""
    await scene.exchange()
    key, evidence = es256(), scene.run.evidence()
    answer = await scene.exchange(evidence, key=key)
    claims = claims_of(answer)
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("TokenIssued", "nightly")
    assert record.groups == {
        "who": {"agent": "nightly", "thumbprint": thumbprint(key), "instance": claims["instance"]},
        "for_whom": {"owner": "team-data", "subject": "job-7"},
        "what": {
            "action": "exchange",
            "resource": f"{scene.url}/openai/v1",
            "token": sha256(answer.json()["access_token"]),
            "token_id": claims["jti"],
            "expires_at_ms": claims["exp"] * 1000,
        },
        "decision": {
            "outcome": "permit",
            "policies": ["agents-exchange"],
            "set": scene.run.broker.policies.current.hash,
            "limited_by": "",
            "action": "exchange",
            "inputs": {
                "confirmation": "dpop",
                "attester": "platform",
                "grant": "urn:ietf:params:oauth:grant-type:token-exchange",
                "lifetime_s": 300,
            },
            "entities": await _digest(scene, "Agent", "nightly"),
            "enrolment": {
                "policies": ["nightly-job"],
                "limited_by": "",
                "entities": await _digest(scene, "OidcEvidence", "evidence"),
            },
        },
        "request": {
            "id": answer.headers["x-request-id"],
            "at_ms": int(scene.clock.now() * 1000),
            "source": "127.0.0.1",
            "grant": "urn:ietf:params:oauth:grant-type:token-exchange",
        },
        "posture": {
            "attester": "platform",
            "evidence": sha256(evidence),
            "rules": ["nightly-job"],
            "confirmation": "dpop",
        },
    }


async def _digest(scene: Scene, type: str, id: str) -> str:
    """The digest of the only stored slice about this principal."""
    rows = await scene.run.broker.read(
        lambda session: list(session.connection().exec_driver_sql("SELECT digest, content FROM entity_slices"))
    )
    found = {str(digest): json.loads(bytes(content)) for digest, content in rows}
    (one,) = [digest for digest, slice in found.items() if slice["principal"] == {"type": type, "id": id}]
    return one


async def test_the_record_is_durable_before_the_token_is_released(scene: Scene) -> None:
    """The answer names the index of a record that an auditor can read at once."""
    answer = await scene.credentials()
    index = int(answer.headers["broker-record"])
    shown = (await scene.admin.get(f"/api/v1/audit/records/{index}")).json()
    assert shown["kind"] == "TokenIssued"
    assert shown["groups"]["what"]["token"] == sha256(answer.json()["access_token"])


@pytest.mark.parametrize(
    ("form", "error", "reason"),
    [
        ({"scope": "x"}, "invalid_scope", "invalid_scope"),
        ({"resource": "https://elsewhere.example"}, "invalid_target", "invalid_target"),
        ({"resource": "{url}/api/v1"}, "invalid_target", "policy"),
    ],
    ids=str,
)
async def test_a_refusal_after_good_evidence_is_recorded(
    scene: Scene, form: dict[str, str], error: str, reason: str
) -> None:
    """Who has proved something leaves a record: whose evidence, under which key, why not, under which set."""
    key, evidence = es256(), scene.run.evidence()
    sent = {name: value.replace("{url}", scene.url) for name, value in form.items()}
    answer = await scene.exchange(evidence, key=key, headers={}, **sent)
    assert error_of(answer) == (400, error)
    (record,) = await scene.records(answer)
    assert (record.kind, record.agent) == ("TokenRefused", "nightly")
    decision = record.groups["decision"]
    assert (decision["outcome"], decision["reason"]) == ("deny", reason)
    assert decision["set"] == scene.run.broker.policies.current.hash
    assert answer.json()["error_description"] == record.groups["posture"]["why"]
    assert record.groups["who"]["thumbprint"] == thumbprint(key)
    assert record.groups["posture"]["evidence"] == sha256(evidence)
    assert await scene.counted() == {}


async def test_a_refusal_before_any_proof_is_counted(scene: Scene) -> None:
    """Who has proved nothing is counted by source and reason; the minute becomes one record, whatever its number."""
    await scene.counted()
    before = len(await scene.records())
    for _ in range(7):
        assert error_of(await scene.exchange("a.b.c"))[0] == 400
    assert error_of(await scene.exchange(proof=scene.proof(age_s=61)))[0] == 400
    assert len(await scene.records()) == before
    scene.clock.advance(60)
    await jobs.write_refusals(scene.run.broker)
    written = (await scene.records())[before:]
    assert {r.kind for r in written} == {"RefusalsCounted"}
    assert sorted(r.groups["request"]["count"] for r in written) == [1, 7]
    assert {r.groups["request"]["source"] for r in written} == {"127.0.0.1"}


async def test_the_text_of_an_error_repeats_no_secret(scene: Scene) -> None:
    """Whatever was sent, the answer holds no evidence, assertion or proof."""
    evidence, assertion, proof = scene.run.evidence("stranger"), scene.assertion(), scene.proof()
    answers = [
        await scene.exchange(evidence, proof=proof),
        await scene.exchange(evidence, proof=proof),
        await scene.credentials(assertion, scope="x"),
        await scene.credentials(assertion),
        await scene.post({"grant_type": "client_credentials", "client_secret": "hunter2-hunter2"}),
    ]
    for answer in answers:
        for secret in (evidence, assertion, proof, "hunter2"):
            assert secret not in answer.text


async def test_no_secret_is_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither database, records nor log hold a token, evidence, assertion or proof: used, refused or replayed."""
    caplog.set_level(logging.DEBUG)
    async with opened(tmp_path) as scene:
        key = es256()
        evidence, stranger, assertion = scene.run.evidence(), scene.run.evidence("stranger"), scene.assertion()
        proofs = [scene.proof(key) for _ in range(5)]
        answers = [
            await scene.exchange(evidence, proof=proofs[0]),
            await scene.exchange(evidence, proof=proofs[0]),
            await scene.exchange(stranger, proof=proofs[1]),
            await scene.credentials(assertion, proof=proofs[2]),
            await scene.credentials(assertion, proof=proofs[3]),
            await scene.exchange("a.b.c", proof=proofs[4]),
        ]
        assert [answer.status_code for answer in answers] == [200, 400, 400, 200, 401, 400]
        tokens = [answers[0].json()["access_token"], answers[3].json()["access_token"]]
        await scene.call(tokens[0], key)
        scene.clock.advance(61)
        await jobs.write_refusals(scene.run.broker)
        await asyncio.to_thread(scene.run.broker.tree.integrate)
        await scene.run.check_log()
        stored = stored_bytes(tmp_path, tmp_path / "data")
        assert len(stored) > 50_000
    secrets = [evidence, stranger, assertion, *proofs, *tokens]
    for secret in secrets:
        _, payload, signature = secret.split(".")
        for part in (payload, signature):
            assert part.encode() not in stored
            assert part not in caplog.text


async def test_a_token_that_nobody_received_is_in_the_trail(tmp_path: Path) -> None:
    """The commit landed after the caller was told 503: the record stands, and another one closes it."""
    gate = Gate("applied")
    async with opened(tmp_path, probe=gate.probe, storage={"commit_timeout_s": 0.4}) as scene:
        gate.close()
        answer = await scene.credentials()
        assert answer.status_code == 503
        assert answer.json()["error"] == "temporarily_unavailable"
        gate.open()
        assert (await scene.credentials()).status_code == 200
        await scene.settled()
        issued, abandoned = await scene.records(answer)
        assert (issued.kind, abandoned.kind) == ("TokenIssued", "TokenAbandoned")
        assert abandoned.agent == CLIENT
        await scene.run.check_log()


async def test_a_caller_who_was_told_503_before_the_transaction_has_nothing(tmp_path: Path) -> None:
    """Who gave up before anything was written leaves no record and no token, and may try again with the evidence."""
    gate = Gate()
    clock = FakeClock()
    async with opened(tmp_path, clock=clock, probe=gate.probe, storage={"commit_timeout_s": 0.4}) as scene:
        key, evidence = es256(), scene.run.evidence()
        gate.close()
        answer = await scene.exchange(evidence, key=key)
        assert answer.status_code == 503
        gate.open()
        assert (await scene.exchange(evidence, key=key)).status_code == 200
        assert await scene.records(answer) == []


async def test_a_running_broker_needs_no_job_to_issue(tmp_path: Path) -> None:
    """With its periodic work running, the same exchange leaves the same records."""
    async with running(tmp_path, clock=FakeClock(), with_jobs=True) as run:
        await run.apply(run.world())
        agent = await run.agent()
        assert (await agent.get("/openai/v1/models")).status_code == 200
        assert (await run.kinds())[-2:] == ["AgentEnrolled", "TokenIssued"]
