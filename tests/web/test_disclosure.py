"""Selective disclosure: an auditor whom a policy shows some groups is shown those, and they are proved like all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from broker.audit import disclosure, trail
from broker.formats import note
from tests.build import AGENT, MODEL, Running, token_request
from tests.gateway.world import by_hand

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SHOWN = ("what", "decision", "request")
_WITHHELD = ["who", "for_whom", "posture", "remedy"]
_POLICY = """
@id("outside-auditor")
forbid (principal == Operator::"olaf", action == Action::"readGroup", resource is Broker)
unless { ["what", "decision", "request"].contains(context.group) };
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def full(run: Running) -> httpx2.AsyncClient:
    """The first operator, who is shown everything; one call has been made."""
    client = await run.operator()
    assert (await (await by_hand(run)).post({"model": MODEL})).status_code == 200
    return client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def olaf(run: Running, full: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """An auditor who is shown three groups."""
    told = await run.apply(
        {"operators": {"olaf": {"roles": ["auditor"], "new_link": True}}, "policies": {"olaf.cedar": _POLICY}}, full
    )
    client = await run.operator("olaf", link=told["sign_in_links"]["olaf"])
    await run.check_log()
    return client


async def _get(client: httpx2.AsyncClient, path: str, **parameters: Any) -> httpx2.Response:
    answer = await client.get(f"/api/v1/audit/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    return answer


async def _call(client: httpx2.AsyncClient) -> dict[str, Any]:
    """The record that admits the call."""
    (found,) = (await _get(client, "records", kind="CallAdmitted")).json()["records"]
    shown: dict[str, Any] = found
    return shown


async def test_an_auditor_is_shown_what_policies_let(full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """In a search and alone: the groups that are shown are whole, of the others and their columns nothing is there."""
    whole, part = await _call(full), await _call(olaf)
    assert whole["index"] == part["index"]
    assert set(whole["groups"]) > set(_SHOWN)
    assert part["groups"] == {name: whole["groups"][name] for name in _SHOWN}
    assert (part["agent"], part["withheld"], part["erased"]) == ("", _WITHHELD, {})
    assert (whole["agent"], whole["withheld"]) == (AGENT, [])
    alone = (await _get(olaf, f"records/{part['index']}")).json()
    assert alone == part
    assert AGENT not in json.dumps(alone)


async def test_a_bundle_proves_what_is_shown(run: Running, full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """The file verifies offline under the log's key, with three groups of seven, and holds no salt of another."""
    index = (await _call(full))["index"]
    data = (await _get(olaf, f"records/{index}/bundle")).content
    proved = trail.verify_bundle(data, note.NoteVerifier.parse(run.broker.log_key))
    assert set(proved.groups) <= set(_SHOWN)
    assert set(json.loads(data)["groups"]) == set(_SHOWN)


async def test_a_range_holds_what_is_shown(full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """Entries and commitments are those that everybody gets; groups are the allowed ones."""
    whole = (await _get(full, "entries", start=0, end=5)).json()["entries"]
    part = (await _get(olaf, "entries", start=0, end=5)).json()["entries"]
    assert [each["entry"] for each in part] == [each["entry"] for each in whole]
    for one, other in zip(part, whole, strict=True):
        assert one["groups"] == {name: group for name, group in other["groups"].items() if name in _SHOWN}


async def test_an_export_holds_what_is_shown(full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """Line by line; the columns of withheld groups are empty, and the line names the groups."""
    index = (await _call(full))["index"]
    lines = [json.loads(line) for line in (await _get(olaf, "export")).text.splitlines()]
    (admitted,) = (line for line in lines if line.get("index") == index)
    assert set(admitted["groups"]) <= set(_SHOWN)
    assert (admitted["agent"], admitted["outcome"], admitted["withheld"]) == ("", "permit", _WITHHELD)
    assert all(line["agent"] == "" and "who" not in line["groups"] for line in lines if "index" in line)


async def test_a_package_holds_what_is_shown(
    run: Running, olaf: httpx2.AsyncClient, tmp_path: Path, full: httpx2.AsyncClient
) -> None:
    """Its own verifier accepts it, counts what was not shown, and finds no decision that it could make again."""
    data = (await _get(olaf, "package")).content
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        archive.extractall(tmp_path / "package")
    records, page, entities = (
        tmp_path / "package" / name for name in ("records.jsonl", "index.html", "entities.jsonl")
    )
    assert all(f'"{name}":{{' not in records.read_text() for name in _WITHHELD)
    assert "operator:admin" not in page.read_text() + records.read_text()
    assert entities.read_bytes() == b""
    key = tmp_path / "log.vkey"
    key.write_text(run.broker.log_key)
    command = [sys.executable, "-I", "verify.py", ".", "--key", str(key)]
    verified = subprocess.run(command, cwd=tmp_path / "package", capture_output=True, text=True, check=False)  # noqa: ASYNC221  nothing else runs meanwhile
    assert verified.returncode == 0, verified.stdout + verified.stderr
    records_shown = len(records.read_bytes().splitlines())
    assert f"not shown   {records_shown * len(_WITHHELD)} groups withheld, 0 erased" in verified.stdout
    whole = zipfile.ZipFile(io.BytesIO((await _get(full, "package")).content))
    assert AGENT.encode() in whole.read("entities.jsonl")


_ASKED = {"agent": AGENT, "owner": "team-data", "human": "admin", "policy": "auditors-read"}


@pytest.mark.parametrize(("name", "value"), _ASKED.items())
async def test_nobody_asks_by_what_is_withheld(olaf: httpx2.AsyncClient, name: str, value: str) -> None:
    """The answer would tell it: the refusal is the same whether there is such a record or not."""
    refusals = set()
    for asked in (value, "no-such-thing"):
        answer = await olaf.get("/api/v1/audit/records", params={name: asked})
        assert answer.status_code == 403
        refusals.add(answer.json()["detail"])
    (refusal,) = refusals
    assert repr(name) in refusal
    assert "readGroup" in refusal


@pytest.mark.parametrize("path", ["export", "package"])
async def test_nobody_takes_away_by_what_is_withheld(olaf: httpx2.AsyncClient, path: str) -> None:
    """An export or a package of one agent's records would tell whose they are."""
    assert (await olaf.get(f"/api/v1/audit/{path}", params={"agent": AGENT})).status_code == 403


async def test_a_saved_query_asks_no_more(olaf: httpx2.AsyncClient, full: httpx2.AsyncClient) -> None:
    """Not even one that somebody saved who may ask it: whoever is not shown it runs, replaces and forgets nothing."""
    body = {"name": "of-nightly", "query": {"agent": AGENT}, "shared": True}
    assert (await full.post("/api/v1/audit/queries", json=body)).status_code == 200
    assert (await olaf.get("/api/v1/audit/records", params={"saved": "of-nightly"})).status_code == 404
    for query in ({"outcome": "deny"}, None):
        answer = await olaf.post("/api/v1/audit/queries", json=body | {"query": query})
        assert (answer.status_code, "Choose another name" in answer.json()["detail"]) == (409, True)
    assert (await _get(full, "records", saved="of-nightly")).json()["records"]
    other = body | {"name": "denials", "query": {"outcome": "deny"}}
    assert (await full.post("/api/v1/audit/queries", json=other)).status_code == 200
    (shown,) = (await _get(olaf, "queries")).json()["queries"]
    assert (shown["name"], shown["changed_by"]) == ("denials", "")


async def test_no_group_holds_what_another_one_is_for(run: Running, full: httpx2.AsyncClient) -> None:
    """Neither owner, purpose nor instance stands in `what`; why evidence was refused stands with the evidence."""
    assert (await token_request(run, evidence=run.evidence("stranger"))).status_code == 400
    found = [
        (await _get(full, "records", kind=kind, limit=1)).json()["records"][0]["groups"]
        for kind in ("AgentEnrolled", "TokenIssued", "TokenRefused")
    ]
    for groups in found:
        apart = json.dumps({name: groups[name] for name in _SHOWN})
        told = [groups["who"].get("instance"), *groups["for_whom"].values(), groups["posture"]["evidence"]]
        assert [each for each in told if each and f'"{each}"' in apart] == []
    assert "why" not in found[2]["decision"]
    assert "stranger" in found[2]["posture"]["why"]


async def test_the_record_of_a_reading_says_why_and_what(full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """The decision that let it be read, and the groups that were withheld."""
    search = (await _get(olaf, "records", outcome="permit", limit=1)).json()["search"]
    groups = (await _get(full, f"records/{search}")).json()["groups"]
    decision = groups["decision"]
    assert (decision["action"], decision["outcome"], decision["policies"]) == ("readTrail", "permit", ["auditors-read"])
    assert decision["entities"]
    assert groups["request"]["withheld"] == _WITHHELD


async def test_what_somebody_asked_by_is_withheld_like_what_it_names(
    full: httpx2.AsyncClient, olaf: httpx2.AsyncClient
) -> None:
    """The record of a search, an export and a package holds the query, and a shared query is kept for all."""
    for path in ("records", "export", "package"):
        await _get(full, path, agent=AGENT)
    read = (await _get(olaf, "records", kind="TrailRead", action="readTrail", limit=200)).json()["records"]
    assert {each["groups"]["what"]["way"] for each in read} >= {"search", "export", "package"}
    assert AGENT not in json.dumps([each["groups"] for each in read])
    body = {"name": "of-nightly", "query": {"agent": AGENT}, "shared": True}
    assert (await full.post("/api/v1/audit/queries", json=body)).status_code == 200
    names = [[each["name"] for each in (await _get(who, "queries")).json()["queries"]] for who in (full, olaf)]
    assert ["of-nightly" in each for each in names] == [True, False]


async def test_a_question_that_is_refused_is_recorded(full: httpx2.AsyncClient, olaf: httpx2.AsyncClient) -> None:
    """Who asked, and the policies that withhold the group, like every other refusal."""
    assert (await olaf.get("/api/v1/audit/records", params={"owner": "team-data"})).status_code == 403
    (found,) = (await _get(full, "records", kind="OperatorRefused", limit=1)).json()["records"]
    groups = found["groups"]
    assert groups["who"]["agent"] == "operator:olaf"
    assert (groups["what"]["action"], groups["what"]["resource"]) == ("readGroup", "GET /api/v1/audit/records")
    assert (groups["decision"]["outcome"], groups["decision"]["policies"]) == ("deny", ["outside-auditor"])
    assert groups["decision"]["inputs"] == {"group": "for_whom"}


async def test_a_search_goes_on_with_no_more_than_its_record_tells(
    run: Running, full: httpx2.AsyncClient, olaf: httpx2.AsyncClient
) -> None:
    """Once the policy is gone that withheld groups, a further page would show what no record says was shown."""
    page = (await _get(olaf, "records", limit=1)).json()
    going_on = {"limit": 1, "after": page["next"], "search": page["search"]}
    assert (await _get(olaf, "records", **going_on)).json()["records"]
    await run.apply({"policies": {"olaf.cedar": None}}, full)
    assert (await olaf.get("/api/v1/audit/records", params=going_on)).status_code == 400
    assert (await _get(olaf, "records", limit=1)).json()["records"][0]["withheld"] == []


async def test_a_vocabulary_of_an_earlier_version_withholds_nothing(run: Running, full: httpx2.AsyncClient) -> None:
    """It cannot say which groups to show, so whoever may read the trail is shown all of it, as before."""
    admin, source = run.broker.directory.operators["admin"], run.broker.policies.source
    assert run.broker.operators.disclosure(admin) == disclosure.WHOLE
    nobody = disclosure.Disclosure(frozenset())
    auditors = {name: text.replace(', Action::"readGroup"', "") for name, text in source.files.items()}
    await run.apply(
        {"policies": {"operators.cedar": auditors["operators.cedar"]}, "cases": {"operators.yaml": None}}, full
    )
    assert run.broker.operators.disclosure(admin) == nobody
    cut = source.schema[: source.schema.index("// May somebody who may `readTrail`")]
    await run.apply({"policy_set": {"schema": cut, "files": auditors, "cases": {}}}, full)
    assert run.broker.operators.disclosure(admin) == disclosure.WHOLE
