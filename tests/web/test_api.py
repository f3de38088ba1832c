"""What the API tells an operator, and what it does with input that it cannot take."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from broker.audit.trail import verify_bundle
from broker.db.engine import execute, writing
from broker.formats import jwk, merkle
from broker.formats.note import NoteVerifier
from broker.web.api.body import MAX_BYTES
from tests.build import AGENT, MODEL, OTHER_MODEL, RULE, Running, es256, token_request
from tests.gateway.world import by_hand

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(run: Running) -> httpx2.AsyncClient:
    """An operator who may do everything; some agents are known, one has called a model, one was refused it."""
    client = await run.operator()
    key = jwk.to_members(es256().public_key())
    spec = {"owner": "team", "purpose": "tests", "ceiling": ["stand-in/*"], "keys": [key]}
    names = ["a/b/c", "batch@1", "zeta", *(f"fleet/{n:02}" for n in range(5))]
    await run.apply({"agents": dict.fromkeys(names, spec)}, client)
    caller = await by_hand(run)
    assert (await caller.post({"model": MODEL})).status_code == 200
    assert (await caller.post({"model": OTHER_MODEL})).status_code == 403
    await asyncio.to_thread(run.broker.tree.integrate)
    return client


async def test_agents_come_in_pages(admin: httpx2.AsyncClient) -> None:
    """Paging through agents gives each once, in order, and ends; an owner's are found."""
    seen: list[str] = []
    after = ""
    while True:
        page = (await admin.get("/api/v1/agents", params={"limit": 3, "after": after})).json()
        seen += [agent["id"] for agent in page["agents"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == sorted({"a/b/c", "batch@1", "zeta", "nightly", *(f"fleet/{n:02}" for n in range(5))})
    of_owner = (await admin.get("/api/v1/agents", params={"owner": "team-data"})).json()
    assert [agent["id"] for agent in of_owner["agents"]] == [AGENT]


async def test_one_agent(run: Running, admin: httpx2.AsyncClient) -> None:
    """An agent is shown with its live instances and the thumbprints of its keys; names with slashes are names."""
    await token_request(run)
    shown = (await admin.get(f"/api/v1/agents/{AGENT}")).json()
    assert (shown["id"], shown["owner"], shown["enrolled_by"]) == (AGENT, "team-data", "nightly-job")
    assert shown["instances"]
    assert set(shown["instances"][0]) == {"id", "thumbprint", "attester", "first_seen", "ends_at"}
    slashed = (await admin.get("/api/v1/agents/a/b/c")).json()
    assert slashed["id"] == "a/b/c"
    assert [len(thumbprint) for thumbprint in slashed["keys"]] == [43]
    missing = await admin.get("/api/v1/agents/nobody%2Felse")
    assert missing.status_code == 404
    assert "nobody/else" in missing.json()["detail"]


async def test_no_secret_is_shown(run: Running, admin: httpx2.AsyncClient) -> None:
    """Endpoints name their secret, operators and agents show thumbprints, keys are public: no value of a secret."""
    everything = ""
    for path in ("agents", "attesters", "endpoints", "operators", "keys", "policies", "policies/active", "changes"):
        answer = await admin.get(f"/api/v1/{path}")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]
        everything += answer.text
    assert "provider-key" in everything
    assert run.provider.key not in everything
    assert '"d":' not in everything


async def test_keys_are_those_that_verify(run: Running, admin: httpx2.AsyncClient) -> None:
    """The keys in use and the log's key, as auditors pin it."""
    keys = (await admin.get("/api/v1/keys")).json()
    assert keys["log"] == run.broker.log_key
    assert keys["current"] in {key["kid"] for key in keys["tokens"]}


async def test_the_trail_is_searched(run: Running, admin: httpx2.AsyncClient) -> None:
    """By kind, agent, outcome, model, request and time, newest first, a page at a time, every record once."""

    async def found(**query: Any) -> list[dict[str, Any]]:
        answer = await admin.get("/api/v1/audit/records", params=query)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["records"])

    (refused,) = await found(kind="CallRefused", agent=AGENT)
    assert refused["groups"]["what"]["model"] == f"stand-in/{OTHER_MODEL}"
    assert await found(model=f"stand-in/{OTHER_MODEL}", outcome="deny") == [refused]
    request_id = (await found(kind="CallAdmitted"))[0]["groups"]["request"]["id"]
    assert [r["kind"] for r in await found(request_id=request_id)] == ["CallCompleted", "CallAdmitted"]
    at = refused["at_ms"]
    assert refused in await found(since_ms=at, until_ms=at + 1)
    assert refused not in await found(until_ms=at)
    seen: list[int] = []
    after: int | None = -1
    while after is not None:
        query = {"limit": 7, "oldest_first": True, "after": after}
        page = (await admin.get("/api/v1/audit/records", params=query)).json()
        seen += [record["index"] for record in page["records"]]
        after = page["next"]
    assert seen == list(range(len(seen)))
    assert seen[-1] >= refused["index"]


async def test_a_record_proves_itself(run: Running, admin: httpx2.AsyncClient) -> None:
    """A record's bundle verifies offline, and two sizes of the log prove that one continues the other."""
    record = (await admin.get("/api/v1/audit/records/3")).json()
    bundle = (await admin.get("/api/v1/audit/records/3/bundle")).content
    proved = verify_bundle(bundle, NoteVerifier.parse(run.broker.log_key))
    assert (proved.index, proved.kind, proved.groups) == (3, record["kind"], record["groups"])
    told = (await admin.get("/api/v1/audit/consistency", params={"old": 2, "new": 4})).json()
    roots = [merkle.root_of([await _leaf(run, i) for i in range(n)]) for n in (2, 4)]
    merkle.verify_consistency(2, 4, [bytes.fromhex(item) for item in told["hashes"]], roots[0], roots[1])


async def _leaf(run: Running, index: int) -> bytes:
    sql = "SELECT leaf FROM records WHERE idx = ?"
    return bytes(await run.broker.read(lambda s: execute(s.connection(), sql, (index,)).scalar_one()))


@pytest.mark.parametrize(
    ("path", "status", "told"),
    [
        ("agents?limit=0", 400, "limit"),
        ("agents?limit=501", 400, "limit"),
        ("agents?limit=x", 400, "limit"),
        ("audit/records?limit=501", 400, "limit"),
        ("audit/records?after=9223372036854775808", 400, "after"),
        ("audit/records?after=-2", 400, "after"),
        ("audit/records?since_ms=-1", 400, "since_ms"),
        ("audit/records?until_ms=1" + "0" * 400, 400, "until_ms"),
        ("audit/records?until_ms=NaN", 400, "until_ms"),
        ("audit/records/-1", 400, "index"),
        ("audit/records/9223372036854775808", 400, "index"),
        ("audit/records/x", 400, "index"),
        ("audit/records/9223372036854775807", 404, "9223372036854775807"),
        ("audit/records/9223372036854775807/bundle", 404, "9223372036854775807"),
        ("audit/consistency", 400, "old"),
        ("audit/consistency?old=0&new=1", 404, "0"),
        ("audit/consistency?old=2&new=1", 404, "2"),
        ("audit/consistency?old=1&new=1" + "0" * 400, 404, ""),
        ("policies/0000", 404, "0000"),
        ("changes/x", 404, "no such proposal"),
    ],
)
async def test_parameters_out_of_bounds(admin: httpx2.AsyncClient, path: str, status: int, told: str) -> None:
    """A parameter that cannot be meant is refused by its name, and never a failure of ours."""
    answer = await admin.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert told in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not acceptable JSON"),
        (b"{", "not acceptable JSON"),
        (b'{"agents": {}, "agents": {}}', "twice"),
        (b'{"agents": {"a": {"owner": "x", "owner": "y"}}}', "twice"),
        (b'{"agents": NaN}', "not valid JSON"),
        (b"\xff", "not acceptable JSON"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested"),
        (b"[]", "dict"),
        (b'"x"', "dict"),
        (b"null", "dict"),
    ],
)
async def test_a_body_that_is_none(run: Running, admin: httpx2.AsyncClient, body: bytes, told: str) -> None:
    """A body that is no JSON object, or that says a thing twice, is 400 and changes nothing."""
    before = run.broker.policies.revision
    answer = await admin.post("/api/v1/changes", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert told in answer.json()["detail"]
    assert run.broker.policies.revision == before


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("contain", {"section": "agents", "name": "x", "status": "revoked"}, "why"),
        ("contain", {"section": "agents", "name": 7, "status": "revoked", "why": "x"}, "name"),
        ("policies/check", {}, "files"),
        ("policies/check", {"files": {"a": 7}}, "files.a"),
        ("policies/check", {"files": {}, "more": 1}, "more"),
        ("policies/explain", {"agent": "", "model": "m"}, "agent"),
        ("policies/explain", {"agent": "a", "model": "m", "stream": "yes"}, "stream"),
    ],
)
async def test_a_member_that_is_wrong(admin: httpx2.AsyncClient, path: str, body: Any, told: str) -> None:
    """A missing, unknown or mistyped member of a body is refused by its name."""
    answer = await admin.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["detail"]


async def test_a_body_is_bounded(run: Running, admin: httpx2.AsyncClient) -> None:
    """More than the bound is 413, announced or not; a stranger's body is not read at all."""
    assert (await admin.post("/api/v1/changes", content=b" " * (MAX_BYTES + 1))).status_code == 413
    for path in ("changes", "contain", "policies/check", "policies/explain"):
        reader, writer = await asyncio.open_connection("127.0.0.1", run.broker.settings.server.port)
        writer.write(f"POST /api/v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_an_operator_who_leaves_before_the_body_is_whole(run: Running) -> None:
    """Nothing happens, nothing is logged as a failure, and the next request is answered."""
    ada = await run.operator()
    seen = await ada.get("/api/v1/whoami")
    before = run.broker.audit.size

    async def broken() -> Any:
        yield b'{"agents":'
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await ada.post("/api/v1/changes", content=broken())
    assert (await ada.get("/api/v1/whoami")).json() == seen.json()
    assert run.broker.audit.size == before


async def test_policies_are_shown_and_tried(run: Running, admin: httpx2.AsyncClient) -> None:
    """The set in force with its texts; a draft is checked with its cases and changes nothing."""
    shown = (await admin.get("/api/v1/policies")).json()
    texts = (await admin.get("/api/v1/policies/active")).json()
    assert shown["hash"] == texts["hash"] == run.broker.policies.current.hash
    assert (await admin.get(f"/api/v1/policies/{shown['hash']}")).json() == texts
    assert {"id", "file", "line", "effect", "action"} == set(shown["policies"][0])
    draft = {"files": texts["files"], "cases": texts["cases"]}
    checked = (await admin.post("/api/v1/policies/check", json=draft)).json()
    assert checked["hash"] == shown["hash"]
    assert checked["cases"] > 10
    other = {"files": {"nightly.cedar": RULE}}
    assert (await admin.post("/api/v1/policies/check", json=other)).json()["hash"] != shown["hash"]
    wrong = await admin.post("/api/v1/policies/check", json={"files": {"a.cedar": "permit"}})
    assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:broker:problem:policy_invalid")
    assert (await admin.get("/api/v1/policies")).json() == shown


async def test_a_decision_is_explained(admin: httpx2.AsyncClient) -> None:
    """Why an agent may or may not call a model, by the same decision as a call; unknown names are 404."""
    path = "/api/v1/policies/explain"
    yes = (await admin.post(path, json={"agent": AGENT, "model": f"stand-in/{MODEL}"})).json()
    no = (await admin.post(path, json={"agent": AGENT, "model": f"stand-in/{OTHER_MODEL}"})).json()
    assert "inside-ceiling" in json.dumps(yes)
    assert "outside-ceiling" in json.dumps(no)
    for agent, model in (("nobody", f"stand-in/{MODEL}"), (AGENT, "nowhere/none")):
        answer = await admin.post(path, json={"agent": agent, "model": model})
        assert answer.status_code == 404


async def test_a_failure_of_ours_tells_nothing(
    run: Running, admin: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """What nobody thought of is 500 with the request's id and no detail; the log has all of it under that id."""
    row = "INSERT INTO proposals VALUES ('bad', '{hunter2', 'eve', 0, 'pending', '')"
    with writing(run.broker.engine) as connection:
        execute(connection, row)
    with caplog.at_level(logging.ERROR):
        answer = await admin.get("/api/v1/changes/bad")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "JSON" not in answer.text
    request_id = answer.json()["request_id"]
    assert request_id == answer.headers["x-request-id"]
    assert request_id in caplog.text
    assert "JSONDecodeError" in caplog.text
    assert (await admin.get("/api/v1/changes")).status_code == 200


@pytest.mark.parametrize(
    ("query", "told"),
    [("since=1", "'since' is not known"), ("limit=2&limit=3", "twice"), ("kind=Nope", "kind")],
)
async def test_a_filter_that_is_not_understood_is_refused(admin: httpx2.AsyncClient, query: str, told: str) -> None:
    """A misspelt filter would show everything and look like an answer."""
    answer = await admin.get(f"/api/v1/audit/records?{query}")
    assert answer.status_code == 400
    assert told in answer.json()["detail"]
