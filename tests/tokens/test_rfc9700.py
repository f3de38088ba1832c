"""RFC 9700 §4, OAuth 2.0 security best practice: one test a countermeasure that this broker can meet today.

| § | attack | here |
| --- | --- | --- |
| 4.1 | insufficient redirect URI validation | does not apply yet: no authorization endpoint, nothing redirects |
| 4.2 | credential leakage by Referer | test_4_2 |
| 4.3.1 | authorization code in browser history | does not apply yet: no codes |
| 4.3.2 | access token in browser history | test_4_3_2 |
| 4.4 | mix-up | test_4_4 |
| 4.5 | authorization code injection | does not apply yet: no codes |
| 4.6 | access token injection | test_4_6 |
| 4.7 | cross-site request forgery | test_4_7 |
| 4.8 | PKCE downgrade | does not apply yet: no codes |
| 4.9.1 | access token phishing by a counterfeit resource server | test_4_9_1 |
| 4.9.2 | compromised resource server | test_4_9_2 |
| 4.10.1 | misuse of stolen tokens: sender constraint | test_4_10_1 |
| 4.10.2 | misuse of stolen tokens: audience restriction | test_4_10_2 |
| 4.11 | open redirection | test_4_11 |
| 4.12 | 307 redirect | test_4_11 |
| 4.13 | TLS terminating reverse proxies | test_4_13 |
| 4.14 | refresh token protection | test_4_14; none are issued |
| 4.15 | client impersonating resource owner | test_4_15 |
| 4.16 | clickjacking | does not apply yet: no page asks for consent |
| 4.17 | in-browser communication | does not apply: no browser flow |
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.build import es256
from tests.tokens.scene import CLIENT, Scene, claims_of, client_spec, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def test_4_2_no_credential_stands_in_a_url(scene: Scene) -> None:
    """§4.2: a sign-in code travels in the fragment, which no Referer holds, and is spent in a body."""
    link = await scene.run.broker.sign_in.link("admin")
    address, _, code = link.partition("#")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/login", address)
    answer = await scene.http.post(f"/login?code={code}", headers={"dpop": scene.proof(url=f"{scene.url}/login")})
    assert answer.status_code == 400


async def test_4_3_2_tokens_are_neither_read_from_nor_put_into_urls(scene: Scene) -> None:
    """§4.3.2: a token in a query is not looked at, and the answer with one must not be cached."""
    answer = await scene.exchange()
    assert answer.headers["cache-control"] == "no-store"
    token = answer.json()["access_token"]
    assert (await scene.http.get(f"/openai/v1/models?access_token={token}")).status_code in (400, 401)
    assert (await scene.http.get(f"/api/v1/whoami?access_token={token}")).status_code == 401


async def test_4_4_tokens_and_metadata_name_their_issuer(scene: Scene) -> None:
    """§4.4: one issuer identifier, in metadata, tokens and proofs; an assertion for another server is refused here."""
    document = (await scene.http.get("/.well-known/oauth-authorization-server")).json()
    assert document["issuer"] == claims_of(await scene.exchange())["iss"] == scene.url
    assert error_of(await scene.credentials(scene.assertion(aud="https://other-as.example"))) == (401, "invalid_client")


async def test_4_6_a_foreign_token_is_not_accepted(scene: Scene) -> None:
    """§4.6: a token that was issued to another key cannot be injected into a client that has its own."""
    victim, attacker = es256(), es256()
    token = (await scene.exchange(key=victim)).json()["access_token"]
    assert (await scene.call(token, attacker)).status_code == 401


async def test_4_7_a_browser_can_be_made_to_do_nothing(scene: Scene) -> None:
    """§4.7: what a foreign page can send without asking (simple requests, cookies) is never enough for anything."""
    token = await scene.post({"grant_type": "client_credentials"}, proof="", headers={"cookie": "a=b", "origin": "x"})
    assert error_of(token) == (401, "invalid_client")
    login = await scene.http.post("/login", content=b'{"code": "x"}', headers={"content-type": "text/plain"})
    assert login.status_code == 401
    assert "set-cookie" not in login.headers
    for path in ("/token", "/login", "/api/v1/changes"):
        preflight = await scene.http.options(
            path, headers={"origin": "https://evil.example", "access-control-request-method": "POST"}
        )
        assert preflight.status_code == 405 or preflight.status_code == 404
        assert "access-control-allow-origin" not in preflight.headers


async def test_4_9_1_a_counterfeit_resource_gets_no_token(scene: Scene) -> None:
    """§4.9.1: a token is asked for by resource, and only for resources that the broker knows."""
    for resource in ("https://evil.example/openai/v1", f"{scene.url}.evil.example/openai/v1", f"{scene.url}/openai"):
        assert error_of(await scene.exchange(resource=resource)) == (400, "invalid_target")


async def test_4_9_2_what_a_resource_saw_it_cannot_use(scene: Scene) -> None:
    """§4.9.2: a resource that keeps token and proof can replay neither, there or at another place."""
    key = es256()
    token = (await scene.exchange(key=key)).json()["access_token"]
    proof = scene.proof(key, method="GET", url=f"{scene.url}/openai/v1/models", access_token=token)
    headers = {"authorization": f"DPoP {token}", "dpop": proof}
    assert (await scene.http.get("/openai/v1/models", headers=headers)).status_code == 200
    assert (await scene.http.get("/openai/v1/models", headers=headers)).status_code == 401
    assert (await scene.http.post("/openai/v1/chat/completions", headers=headers, json={})).status_code == 401
    assert (await scene.http.get("/api/v1/whoami", headers=headers)).status_code == 401


async def test_4_10_1_tokens_are_sender_constrained(scene: Scene) -> None:
    """§4.10.1: every token is bound to a key unless a policy says otherwise, and none says so as shipped."""
    for answer in (await scene.exchange(), await scene.credentials()):
        assert set(claims_of(answer)["cnf"]) == {"jkt"}
        assert answer.json()["token_type"] == "DPoP"
    for answer in (await scene.exchange(proof=""), await scene.credentials(proof="")):
        assert error_of(answer) == (400, "invalid_dpop_proof")


async def test_4_10_2_tokens_are_for_one_resource(scene: Scene) -> None:
    """§4.10.2: one audience in every token, also when none was asked for."""
    assert claims_of(await scene.exchange())["aud"] == f"{scene.url}/openai/v1"
    assert claims_of(await scene.exchange(resource=f"{scene.url}/openai/v1"))["aud"] == f"{scene.url}/openai/v1"
    both = await scene.exchange(resource=f"{scene.url}/openai/v1", audience=f"{scene.url}/api/v1")
    assert error_of(both) == (400, "invalid_target")


async def test_4_11_nothing_redirects(scene: Scene) -> None:
    """§4.11, §4.12: no answer sends a request elsewhere, with whatever address in it, and none has a 307's body on."""
    addresses = ("//evil.example", "/\\evil.example", "/login?next=https://evil.example", "/token/?x=//evil.example")
    for path in (*addresses, "/api/v1", "/api/v1/agents/", "/.well-known/", "/log/"):
        for method in ("GET", "POST"):
            answer = await scene.raw(f"{method} {path} HTTP/1.1", "host: evil.example")
            status = int(answer.split(b" ", 2)[1])
            assert not 300 <= status < 400, path
            assert b"\r\nlocation:" not in answer.lower()


async def test_4_13_an_unnamed_proxy_is_not_believed(scene: Scene) -> None:
    """§4.13: headers that a proxy would set mean nothing from a peer that the configuration does not name."""
    await scene.counted()
    claimed = {"x-forwarded-for": "203.0.113.9", "x-real-ip": "203.0.113.9", "forwarded": "for=203.0.113.9"}
    claimed |= {"x-ssl-client-cert": "x", "x-client-cert": "x", "client-cert": ":x:", "x-forwarded-client-cert": "x"}
    answer = await scene.exchange(headers=claimed)
    assert (await scene.records(answer))[-1].groups["request"]["source"] == "127.0.0.1"
    answer = await scene.post({"grant_type": "client_credentials", "client_id": CLIENT}, headers=claimed)
    assert error_of(answer) == (401, "invalid_client")
    (event,) = scene.run.broker.refusals.drain(scene.clock.now(), everything=True)
    assert dict(event.request or {})["source"] == "127.0.0.1"


async def test_4_14_there_are_no_refresh_tokens(scene: Scene) -> None:
    """§4.14: evidence is shown again instead; the grant is not offered and no answer holds one."""
    assert "refresh_token" not in (await scene.exchange()).json()
    answer = await scene.post({"grant_type": "refresh_token", "refresh_token": "x"})
    assert error_of(answer) == (400, "unsupported_grant_type")


async def test_4_15_a_client_cannot_have_a_persons_or_an_agents_name(scene: Scene) -> None:
    """§4.15: no client chooses its own name, and an operator's cannot be registered for one."""
    for name in ("operator:admin", "operator:", "Operator::admin "):
        refused = await scene.admin.post("/api/v1/changes", json={"agents": {name: client_spec(es256())}})
        assert refused.status_code == 422, name
    answer = await scene.credentials(client_id="operator:admin")
    assert error_of(answer) == (401, "invalid_client")
    assert claims_of(await scene.credentials())["sub"] == CLIENT
