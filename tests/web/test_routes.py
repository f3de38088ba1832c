"""Every route of the API and every kind of caller, from the route table itself: no route is forgotten."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import APIRouter, Depends, FastAPI

from broker.client import BrokerAuth
from broker.entropy import new_id, system_entropy
from broker.formats import dpop
from broker.tokens.operate import ACTIONS
from broker.web import api
from broker.web.api.access import Allowed, Reader
from tests.build import Running, call_headers, es256, token_request
from tests.gateway.world import last_records
from tests.web.routes import PUBLIC, ApiRoute, api_routes, app_of, unguarded

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _of_the_router() -> list[ApiRoute]:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(api.router())
    return [route for route in api_routes(app) if (route.method, route.path) not in PUBLIC]


ROUTES = _of_the_router()
IDS = [f"{route.method} {route.path}" for route in ROUTES]
GETTING_IN = {("POST", "/token"), ("POST", "/login")}
MAY = {"admin": {"read", "propose", "approve", "contain"}, "auditor": {"read", "readTrail"}}
NEEDS = {
    "/api/v1/changes": "propose",
    "/api/v1/changes/{id}/approve": "approve",
    "/api/v1/changes/{id}/withdraw": "propose",
    "/api/v1/contain": "contain",
    "/api/v1/keys/rotate": "contain",
    "/api/v1/audit/erase": "erase",
    "/api/v1/audit/queries": "readTrail",
    "/api/v1/policies/check": "propose",
    "/api/v1/policies/explain": "read",
}
"""What each route asks for that is more than a look; written down here, for the table could be wrong."""
BODIES: dict[str, Any] = {
    "/api/v1/audit/queries": {"name": "all", "query": {}},
    "/api/v1/changes": {"agents": {"a": {"owner": "o", "purpose": "p"}}},
    "/api/v1/contain": {"section": "agents", "name": "nobody", "status": "revoked", "why": "test"},
    "/api/v1/policies/check": {"files": {"a.cedar": ""}},
    "/api/v1/audit/erase": {"agent": "nobody", "groups": ["who"], "before_ms": 1, "why": "test"},
    "/api/v1/policies/explain": {"agent": "nobody", "model": "stand-in/stand-in-small"},
}


@dataclass(slots=True)
class Person:
    """An operator whose every byte a test can choose."""

    run: Running
    http: httpx2.AsyncClient
    key: ec.EllipticCurvePrivateKey
    token: str

    def headers(self, route: ApiRoute) -> dict[str, str]:
        """The token and a fresh proof."""
        return call_headers(self.run, self.token, self.key, route.example, route.method)

    async def ask(self, route: ApiRoute, headers: Any = None) -> httpx2.Response:
        """One request to a route, with a body that it would take."""
        sent = self.headers(route) if headers is None else headers
        body = BODIES.get(route.path)
        return await self.http.request(route.method, route.example, headers=sent, json=body)


async def _person(run: Running, name: str, link: str) -> Person:
    key = es256()
    await run.operator(name, link=link, key=key)
    http = httpx2.AsyncClient(
        auth=BrokerAuth(run.url, client_id=f"operator:{name}", key=key, audience=f"{run.url}/api/v1", proof_key=key)
    )
    async with http:
        seen = await http.get(f"{run.url}/api/v1/whoami")
    token = seen.request.headers["Authorization"].removeprefix("DPoP ")
    return Person(run, await run.client(), key, token)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def people(run: Running) -> dict[str, Person]:
    """One operator with each role alone, one without any right, and one who was suspended."""
    names = {"ada": "admin", "olga": "auditor", "sue": "admin"}
    added = await run.apply({"operators": {name: {"roles": [role]} for name, role in names.items()}})
    found = {name: await _person(run, name, link) for name, link in added["sign_in_links"].items()}
    admin = await run.operator()
    what = {"section": "operators", "name": "sue", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    return {"admin": found["ada"], "auditor": found["olga"], "suspended": found["sue"]}


async def test_every_route_is_guarded() -> None:
    """Each route demands exactly one action that policies know, and none reads a body before that."""
    assert unguarded(ROUTES) == []
    assert {route.actions[0] for route in ROUTES} == set(ACTIONS)
    assert len(ROUTES) >= 18


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_route_demands_the_right_to_what_it_does(route: ApiRoute) -> None:
    """Who may look changes nothing, and the audit log is its readers' own."""
    look = "readTrail" if route.path.startswith("/api/v1/audit/") else "read"
    assert route.actions == (look if route.method == "GET" else NEEDS[route.path],)


async def test_the_application_serves_no_other_routes(run: Running) -> None:
    """What FastAPI answers in the running application is the API and the description of it."""
    served = api_routes(app_of(run.broker)._rest)
    assert [route for route in served if (route.method, route.path) not in PUBLIC] == ROUTES
    assert {(route.method, route.path) for route in served} - {(r.method, r.path) for r in ROUTES} == PUBLIC


async def test_a_forgotten_guard_is_found() -> None:
    """A new route without `Allowed`, outside the prefix, or with a body of FastAPI's own makes the tests fail."""
    app = FastAPI(docs_url=None, redoc_url=None)
    router = APIRouter(prefix="/api/v1")

    @router.get("/open")
    def _open() -> None: ...

    @router.post("/body")
    def _body(_me: Reader, what: dict[str, int]) -> None: ...

    @router.get("/twice")
    def _twice(_me: Reader, _other: str = Depends(Allowed("approve"))) -> None: ...

    app.include_router(router)

    @app.get("/elsewhere")
    def _elsewhere(_me: Reader) -> None: ...

    assert set(unguarded(api_routes(app))) == {
        "GET /api/v1/open", "POST /api/v1/body", "GET /api/v1/twice", "GET /elsewhere",
    }  # fmt: skip


def _is_challenge(answer: httpx2.Response, run: Running, error: str | None) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    challenge = answer.headers["www-authenticate"]
    assert f'resource_metadata="{run.url}/.well-known/oauth-protected-resource/api/v1"' in challenge
    assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
    assert answer.json()["status"] == 401


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_stranger_is_refused(run: Running, people: dict[str, Person], route: ApiRoute) -> None:
    """No token, garbage, another resource's token, an agent's, a forged one: 401 with a challenge, and no record."""
    ada, key = people["admin"], es256()
    agent = (await token_request(run, key=key)).json()["access_token"]
    before = run.broker.audit.size
    _is_challenge(await ada.ask(route, {}), run, None)
    for token, holder in (
        ("garbage", key),
        ("a.b.c", key),
        (agent, key),
        (ada.token[:-6] + "AAAAAA", ada.key),
    ):
        headers = call_headers(run, token, holder, route.example, route.method)
        _is_challenge(await ada.ask(route, headers), run, "invalid_token")
    assert run.broker.audit.size == before


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
async def test_a_token_without_its_key_is_refused(run: Running, people: dict[str, Person], route: ApiRoute) -> None:
    """An operator's token with no proof, with one by another key, for another request, or used before: 401."""
    ada = people["admin"]
    good = ada.headers(route)
    elsewhere = ApiRoute(route.method, "/api/v1/elsewhere", (), False)
    stale = dpop.prove(
        ada.key, method=route.method, url=f"{run.url}{route.example}", now=run.clock.now() - 300,
        jti=new_id(system_entropy), access_token=ada.token,
    )  # fmt: skip
    for headers in (
        {"Authorization": good["Authorization"]},
        {**good, "DPoP": "garbage"},
        {**good, "DPoP": stale},
        {**good, "DPoP": ada.headers(elsewhere)["DPoP"]},
        {**good, "DPoP": call_headers(run, ada.token, es256(), route.example, route.method)["DPoP"]},
        {**good, "DPoP": call_headers(run, ada.token, ada.key, route.example, "PUT")["DPoP"]},
    ):
        _is_challenge(await ada.ask(route, headers), run, "invalid_dpop_proof")
    _is_challenge(await ada.ask(route, {**good, "Authorization": f"Bearer {ada.token}"}), run, "invalid_token")
    assert (await ada.ask(route, good)).status_code != 401
    _is_challenge(await ada.ask(route, good), run, "invalid_dpop_proof")


@pytest.mark.parametrize("route", ROUTES, ids=IDS)
@pytest.mark.parametrize("who", ["admin", "auditor", "suspended"])
async def test_the_role_decides(run: Running, people: dict[str, Person], route: ApiRoute, who: str) -> None:
    """The right role is admitted, the wrong one and a suspended operator are 403, recorded with what they tried."""
    before = run.broker.audit.size
    answer = await people[who].ask(route)
    if who != "suspended" and route.actions[0] in MAY[who]:
        assert answer.status_code not in (401, 403), answer.text
        return
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:broker:problem:access_denied"
    assert run.broker.audit.size == before + 1
    (record,) = await last_records(run, 1)
    assert record["kind"] == "OperatorRefused"
    assert record["what"] == {"action": route.actions[0], "resource": f"{route.method} {route.example}"}
    assert record["decision"]["policies"] == (["inactive-operators"] if who == "suspended" else [])


async def test_every_hot_route_is_guarded(run: Running, people: dict[str, Person]) -> None:
    """What the dispatcher answers itself wants an agent's token, but for the two places where credentials are got."""
    ada, key = people["admin"], es256()
    hot = app_of(run.broker)._hot
    assert set(hot) >= GETTING_IN
    for method, path in set(hot) - GETTING_IN:
        before = run.broker.audit.size
        attempts: list[dict[str, str]] = [
            {},
            call_headers(run, "garbage", key, path, method),
            call_headers(run, ada.token, ada.key, path, method),
            {"Authorization": f"Bearer {ada.token}"},
        ]
        for headers in attempts:
            answer = await ada.http.request(method, path, headers=headers)
            assert answer.status_code == 401, (method, path)
            metadata = f"{run.url}/.well-known/oauth-protected-resource/{path.split('/')[1]}/v1"
            assert f'resource_metadata="{metadata}"' in answer.headers["www-authenticate"]
        assert run.broker.audit.size == before


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "BREW", "POST", "GET"])
async def test_other_methods_reach_nothing(run: Running, people: dict[str, Person], method: str) -> None:
    """A method that a route does not have is 405 or 404 for everybody alike, and tells nothing of what is there."""
    ada = people["admin"]
    for path in sorted({route.path for route in ROUTES}):
        route = ApiRoute(method, path, (), False)
        if any(known.method == method and known.answers(route.example) for known in ROUTES):
            continue
        before = run.broker.audit.size
        answers = [await ada.http.request(method, route.example), await ada.ask(route)]
        for answer in answers:
            assert answer.status_code in (400, 404, 405), (path, answer.status_code)
            assert "operator" not in answer.text
            assert len(answer.content) < 200
        assert answers[0].status_code == answers[1].status_code
        assert run.broker.audit.size == before


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/attesters/",
        "/api/v1//attesters",
        "//api/v1/attesters",
        "/API/v1/attesters",
        "/api/v1/attesters;x",
        "/api/v1/../v1/nothing",
        "/api/v1/nothing",
        "/api/v1",
        "/api/v2/attesters",
        "/docs",
        "/redoc",
        "/metrics",
        "/console/",
        "/",
    ],
)
async def test_other_paths_reach_nothing(people: dict[str, Person], path: str) -> None:
    """A path that is not exactly a route's is 404, never a redirect to wherever the Host header says."""
    ada = people["admin"]
    answer = await ada.http.request("GET", path, headers={"Host": "evil.example"}, follow_redirects=False)
    assert answer.status_code == 404, answer.headers
    assert "location" not in answer.headers
    assert "evil" not in answer.text + repr(answer.headers)


async def test_one_proof_opens_one_route_once(run: Running, people: dict[str, Person]) -> None:
    """The same request eight times at one moment: one is answered."""
    olga = people["auditor"]
    route = next(route for route in ROUTES if route.path == "/api/v1/whoami")
    headers = olga.headers(route)
    answers = await asyncio.gather(*(olga.ask(route, headers) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
