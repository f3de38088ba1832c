"""Who calls: tokens that look alike, proofs that do not fit, principals that were stopped."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import httpx2
import pytest

from broker.entropy import new_id, system_entropy
from broker.formats import dpop
from tests.build import MODEL, OTHER_MODEL, Running, call_headers, es256
from tests.gateway.world import CHAT, NARROW, PARTS, ByHand, Part, by_hand, last_records

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _challenged(answer: httpx2.Response, caller: ByHand, error: str | None) -> None:
    """A 401 in the format's shape, with a challenge that tells where to learn more."""
    url, part = caller.run.url, caller.part
    assert answer.status_code == 401, answer.text
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("DPoP ")
    assert f'resource_metadata="{url}/.well-known/oauth-protected-resource{part.resource}"' in challenge
    assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
    assert set(answer.json()["error"]) == part.error_members


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_no_token_is_a_challenge(run: Running, caller: ByHand, method: str) -> None:
    """Without a token the answer says where to get one, and names no error (RFC 6750 §3.1)."""
    path = caller.part.call if method == "POST" else caller.part.models
    answer = await caller.http.request(method, path, json={"model": MODEL} if method == "POST" else None)
    _challenged(answer, caller, None)
    metadata = await caller.http.get(f"/.well-known/oauth-protected-resource{caller.part.resource}")
    assert metadata.json()["resource"] == run.url + caller.part.resource


async def test_tokens_with_a_common_prefix_are_never_confused(run: Running, caller: ByHand) -> None:
    """A verified token makes no other token valid, however long their common beginning (LiteLLM CVE-2026-35030)."""
    other = await by_hand(run, NARROW, caller.part)
    shared = next(i for i, (a, b) in enumerate(zip(caller.token, other.token, strict=False)) if a != b)
    assert shared > 20
    for _ in range(2):  # the second time both are remembered
        assert (await caller.post({"model": OTHER_MODEL})).status_code == 200
        assert (await last_records(run, 1))[0]["kind"] == "CallCompleted"
        assert (await other.post({"model": OTHER_MODEL})).status_code == 403
        assert (await last_records(run, 1))[0]["who"]["agent"] == "narrow"
    good = caller.token
    head, payload, signature = good.split(".")
    _, other_payload, other_signature = other.token.split(".")
    flipped = "A" if signature[10] != "A" else "B"
    forged = [
        good + "A",
        good[:-1],
        good[:-40],
        f"{head}.{payload}.{signature[:10]}{flipped}{signature[11:]}",
        f"{head}.{payload}.{other_signature}",
        f"{head}.{other_payload}.{signature}",
        f"{head}.{payload}.",
        good[:20],
        f"{good}.{good}",
        good.upper(),
    ]
    for token in forged:
        assert token != good
        headers = call_headers(run, token, caller.key, caller.part.call)
        answer = await caller.http.post(caller.part.call, json={"model": MODEL}, headers=headers)
        _challenged(answer, caller, "invalid_token")


async def test_the_scheme_must_fit_the_token(run: Running, caller: ByHand) -> None:
    """A bound token is never taken as a bearer token, with its proof or without (RFC 9449 §7.2)."""
    for headers in (
        {"Authorization": f"Bearer {caller.token}"},
        {**caller.headers(), "Authorization": f"Bearer {caller.token}"},
        {**caller.headers(), "Authorization": caller.token},
        {**caller.headers(), "Authorization": f"Basic {caller.token}"},
        {**caller.headers(), "Authorization": "DPoP"},
        {**caller.headers(), "Authorization": f"DPoP {caller.token}, DPoP {caller.token}"},
    ):
        _challenged(
            await caller.http.post(caller.part.call, json={"model": MODEL}, headers=headers), caller, "invalid_token"
        )


async def test_the_scheme_is_read_without_case(caller: ByHand) -> None:
    """Schemes compare without case (RFC 9110 §11.1)."""
    headers = {**caller.headers(caller.part.models, "GET"), "Authorization": f"dPoP {caller.token}"}
    assert (await caller.http.get(caller.part.models, headers=headers)).status_code == 200


async def test_headers_that_come_twice_are_refused(run: Running, caller: ByHand) -> None:
    """Two tokens or two proofs leave open which one counts, so neither does."""
    proof = caller.headers()
    twice = [("Authorization", proof["Authorization"])] * 2 + [("DPoP", proof["DPoP"])]
    _challenged(await caller.http.post(caller.part.call, json={"model": MODEL}, headers=twice), caller, "invalid_token")
    proofs = [*caller.headers().items(), ("DPoP", caller.headers()["DPoP"])]
    _challenged(
        await caller.http.post(caller.part.call, json={"model": MODEL}, headers=proofs), caller, "invalid_dpop_proof"
    )


async def test_a_stolen_token_without_its_key(run: Running, caller: ByHand) -> None:
    """Neither no proof, nor one by another key, for another path, method, token or time, makes a token usable."""
    now, url, token = run.clock.now(), f"{run.url}{caller.part.call}", caller.token

    def proof(**change: object) -> str:
        arguments = {"method": "POST", "url": url, "now": now, "jti": new_id(system_entropy), "access_token": token}
        key = change.pop("key", caller.key)
        return dpop.prove(key, **{**arguments, **change})  # type: ignore[arg-type]  # a test breaks each

    for wrong in (
        None,
        "",
        "garbage",
        token,
        proof(key=es256()),
        proof(method="GET"),
        proof(url=f"{run.url}{caller.part.models}"),
        proof(url=f"http://localhost:{run.broker.settings.server.port}{caller.part.call}"),
        proof(access_token=None),
        proof(access_token=(await by_hand(run, part=caller.part)).token),
        proof(now=now - 120),
        proof(now=now + 120),
    ):
        headers = {"Authorization": f"DPoP {token}", **({} if wrong is None else {"DPoP": wrong})}
        answer = await caller.http.post(caller.part.call, json={"model": MODEL}, headers=headers)
        _challenged(answer, caller, "invalid_dpop_proof")


async def test_a_proof_works_once(run: Running, caller: ByHand) -> None:
    """The same proof again is refused, one after the other and at the same moment, on calls and on the list."""
    headers = caller.headers()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert (await caller.http.post(caller.part.call, json=body, headers=headers)).status_code == 200
    _challenged(await caller.http.post(caller.part.call, json=body, headers=headers), caller, "invalid_dpop_proof")
    headers = caller.headers(caller.part.models, "GET")
    together = await asyncio.gather(*(caller.http.get(caller.part.models, headers=headers) for _ in range(8)))
    assert sorted(answer.status_code for answer in together) == [200] + [401] * 7


async def test_a_token_for_the_api_calls_no_model(run: Running, caller: ByHand) -> None:
    """An operator's token is for another resource: refused here, whatever the operator may do there."""
    admin = await run.operator()
    _challenged(await admin.post(caller.part.call, json={"model": MODEL}), caller, "invalid_token")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_token_for_one_part_of_the_gateway_is_none_for_the_other(caller: ByHand, method: str) -> None:
    """A token names the resource that it is for (RFC 8707), and each wire format is one."""
    (other,) = (part for part in PARTS.values() if part is not caller.part)
    path = other.call if method == "POST" else other.models
    content = json.dumps({"model": MODEL}) if method == "POST" else None
    answer = await caller.http.request(method, path, content=content, headers=caller.headers(path, method))
    _challenged(answer, replace(caller, part=other), "invalid_token")


@pytest.mark.parametrize("status", ["suspended", "revoked"])
async def test_a_stopped_agent_is_refused_on_its_next_call(run: Running, part: Part, status: str) -> None:
    """A live token is worth nothing from the moment its agent is stopped; the refusal names the policy."""
    stopped, admin = await by_hand(run, NARROW, part), await run.operator()
    assert (await stopped.post({"model": MODEL})).status_code == 200
    contained = {"section": "agents", "name": "narrow", "status": status, "why": "test"}
    assert (await admin.post("/api/v1/contain", json=contained)).status_code == 200
    answer = await stopped.post({"model": MODEL})
    assert answer.status_code == 403
    assert "inactive-agents-call" in answer.json()["error"]["message"]
    assert (await admin.post("/api/v1/changes", json={"agents": {"narrow": {"status": "active"}}})).status_code == 200
    assert (await stopped.post({"model": MODEL})).status_code == 200


async def test_an_agent_stopped_while_its_body_comes(run: Running) -> None:
    """A suspension does not wait for a body that takes its time: what counts is the moment of the decision."""
    slow, admin = await by_hand(run, NARROW), await run.operator()
    reader, writer = await asyncio.open_connection("127.0.0.1", run.broker.settings.server.port)
    body = b'{"model":"stand-in-small","messages":[{"role":"user","content":"x"}]}'
    head = "".join(f"{name}: {value}\r\n" for name, value in slow.headers().items())
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode())
    contained = {"section": "agents", "name": "narrow", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=contained)).status_code == 200
    writer.write(body)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert answer.startswith(b"HTTP/1.1 403 ")
    writer.close()
    assert (await admin.post("/api/v1/changes", json={"agents": {"narrow": {"status": "active"}}})).status_code == 200
