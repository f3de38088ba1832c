"""Secrets planted through a whole run of `broker serve` at log level debug, and looked for wherever bytes end up."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from broker.client.token_request import client_assertion
from broker.clock import SystemClock
from broker.demo.platform import StandInPlatform
from broker.entropy import new_id, system_entropy
from broker.formats import base64url, dpop, jwk
from tests.build import RULE, es256, free_port
from tests.gateway.world import Unruly

CHAT = "/openai/v1/chat/completions"
PROMPT = "planted-prompt-5f1c"
ANSWER = "planted-answer-77aa"
TYPED = "planted-in-a-manifest-90ab"
CLOCK = SystemClock()


@dataclass(slots=True)
class Planted:
    """A running `broker serve`, the secrets that went through it, and what it answered when it refused.

    Args:
        secrets: each with the name under which a failure tells of it.
        refusals: bodies and header fields of every answer that was no success.
        journal: the data folder while the broker ran, with what was not yet in the database.
    """

    url: str
    folder: Path
    platform: StandInPlatform
    provider: Unruly
    http: httpx2.AsyncClient
    secrets: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)
    journal: bytes = b""

    def plant(self, name: str, secret: str) -> str:
        """Remembers a secret; of a signed token, the part that nothing else contains."""
        last = secret.rpartition(".")[2] if secret.count(".") == 2 else secret
        assert len(last) >= 16
        self.secrets[f"{name} {len(self.secrets)}"] = last
        return secret

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A private key, planted in the forms in which it could be written down."""
        key = es256()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self.plant(f"{name}, PEM", pem.splitlines()[2])
        self.plant(f"{name}, JWK", _d(key))
        return key

    def proof(self, key: ec.EllipticCurvePrivateKey, path: str, method: str = "POST", token: str | None = None) -> str:
        """A fresh proof, planted."""
        return self.plant(
            f"proof for {path}",
            dpop.prove(
                key, method=method, url=self.url + path, now=CLOCK.now(), jti=new_id(system_entropy), access_token=token
            ),
        )

    async def ask(self, method: str, path: str, **arguments: Any) -> httpx2.Response:
        """One request; a refusal is kept."""
        answer = await self.http.request(method, self.url + path, **arguments)
        if not answer.is_success:
            self.refusals.append(repr(answer.headers.multi_items()) + answer.text)
        return answer

    async def token(self, key: ec.EllipticCurvePrivateKey, **form: str) -> httpx2.Response:
        """One request to the token endpoint; a token is planted."""
        answer = await self.ask("POST", "/token", data=form, headers={"DPoP": self.proof(key, "/token")})
        if answer.is_success:
            self.plant("access token", answer.json()["access_token"])
        return answer

    async def exchange(self, key: ec.EllipticCurvePrivateKey, evidence: str, **more: str) -> httpx2.Response:
        """Evidence for a token."""
        return await self.token(
            key,
            grant_type="urn:ietf:params:oauth:grant-type:token-exchange",
            subject_token=evidence,
            subject_token_type="urn:ietf:params:oauth:token-type:jwt",
            **more,
        )

    async def asserted(self, key: ec.EllipticCurvePrivateKey, client: str) -> httpx2.Response:
        """An assertion of a registered key for a token of the API."""
        assertion = client_assertion(
            client, key, audience=self.url, now=CLOCK.now(), jti=new_id(system_entropy), kid=None
        )
        return await self.token(
            key,
            grant_type="client_credentials",
            client_id=client,
            client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            client_assertion=self.plant("assertion", assertion),
            resource=f"{self.url}/api/v1",
        )

    async def login(self, key: ec.EllipticCurvePrivateKey, code: str) -> httpx2.Response:
        """Spends a sign-in code."""
        return await self.ask("POST", "/login", json={"code": code}, headers={"DPoP": self.proof(key, "/login")})

    async def with_token(
        self, key: ec.EllipticCurvePrivateKey, token: str, method: str, path: str, **arguments: Any
    ) -> httpx2.Response:
        """A request with a token and its proof."""
        headers = {"Authorization": f"DPoP {token}", "DPoP": self.proof(key, path, method, token)}
        return await self.ask(method, path, headers=headers, **arguments)


def _d(key: ec.EllipticCurvePrivateKey) -> str:
    return base64url.encode(key.private_numbers().private_value.to_bytes(32, "big"))


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[tuple[Planted, str]]:
    """`broker serve` in a process of its own, and the code of the link that it prints; leaving stops it."""
    async with (
        StandInPlatform(clock=CLOCK, entropy=system_entropy) as platform,
        Unruly() as provider,
        httpx2.AsyncClient(timeout=30) as http,
    ):
        port = free_port()
        (folder / "provider.key").write_text(provider.key)
        (folder / "provider.key").chmod(0o600)
        allow = [origin.partition("://")[2] for origin in (platform.origin, provider.origin)]
        (folder / "broker.toml").write_text(
            f'log_level = "debug"\n[server]\nport = {port}\n'
            f"[storage]\ndata_dir = {json.dumps(str(folder / 'data'))}\nreserve_mb = 8\n"
            f"[outgoing]\nallow = {json.dumps(allow)}\n"
            f"[secrets.provider-key]\nfile = {json.dumps(str(folder / 'provider.key'))}\n"
            f"origins = {json.dumps([provider.origin])}\n"
        )
        run = "from broker.cli import main; main()"
        with (folder / "stderr").open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", run, "serve", "--config", str(folder / "broker.toml"), "--json",
                cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=stderr,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                told = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
                code = str(told["sign_in_link"]).partition("#")[2]
                planted = Planted(f"http://127.0.0.1:{port}", folder, platform, provider, http)
                planted.plant("provider's key", provider.key)
                yield planted, planted.plant("sign-in code", code)
                planted.journal = _files(folder / "data")
                process.terminate()
                rest = await asyncio.wait_for(process.stdout.read(), 30)
                (folder / "stdout").write_bytes(rest)
                assert await process.wait() in (0, -signal.SIGTERM)  # uvicorn ends by the signal that stopped it
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def _work(run: Planted, code: str) -> None:
    """Everything that operators and agents do, done rightly and wrongly."""
    admin, agent = run.key("admin's key"), run.key("agent's key")
    await run.login(admin, "a-code-that-is-none-at-all")
    assert (await run.login(admin, code)).is_success
    assert not (await run.login(admin, code)).is_success
    operator = (await run.asserted(admin, "operator:admin")).json()["access_token"]
    world = {
        "attesters": {"platform": {"kind": "oidc", "issuer": run.platform.issuer, "audience": run.url}},
        "endpoints": {
            "stand-in": {
                "base_url": f"{run.provider.origin}/v1",
                "secret": "provider-key",
                "models": ["stand-in-small", "secretive", "quotes-401", "disconnect"],
            }
        },
        "operators": {"eve": {"roles": ["auditor"]}},
        "policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")},
    }
    applied = await run.with_token(admin, operator, "POST", "/api/v1/changes", json=world)
    assert applied.is_success, applied.text
    eves = run.plant("sign-in code", applied.json()["sign_in_links"]["eve"].partition("#")[2])
    assert (await run.login(run.key("eve's key"), eves)).is_success
    await _mistakes_of_an_admin(run, admin, operator)
    evidence = run.plant("evidence", run.platform.identity_token("job-7", run.url, {}))
    token = (await run.exchange(agent, evidence)).json()["access_token"]
    await _mistakes_at_the_token_endpoint(run, agent, evidence)
    await _calls(run, agent, token)
    for path in ("agents", "endpoints", "audit/records", "operators", "keys", "policies/active"):
        await run.with_token(admin, operator, "GET", f"/api/v1/{path}")


async def _mistakes_of_an_admin(run: Planted, admin: ec.EllipticCurvePrivateKey, operator: str) -> None:
    endpoint = {"base_url": f"{run.provider.origin}/v1", "models": ["m"]}
    mistakes: list[dict[str, Any]] = [
        {"endpoints": {"e": {**endpoint, "api_key": TYPED}}},
        {"endpoints": {"e": {**endpoint, "base_url": f"https://user:{TYPED}@api.example/v1"}}},
        {"attesters": {"a": {"kind": "oidc", "issuer": f"https://issuer.example/?{TYPED}", "audience": "x"}}},
        {"agents": {"a": {"owner": "o", "purpose": "p", "keys": [_private(run.key("typed key"))]}}},
        {"operators": {"o": {"roles": [TYPED]}}},
    ]
    for mistake in mistakes:
        assert (await run.with_token(admin, operator, "POST", "/api/v1/changes", json=mistake)).status_code == 422


async def _mistakes_at_the_token_endpoint(run: Planted, agent: ec.EllipticCurvePrivateKey, evidence: str) -> None:
    other = run.key("other key")
    foreign = run.plant("evidence", run.platform.identity_token("job-7", "https://elsewhere.example", {}))
    unknown = run.plant("evidence", run.platform.identity_token("somebody", run.url, {}))
    for token in (evidence, foreign, unknown, evidence[:-8] + "AAAAAAAA", evidence + "x"):
        assert not (await run.exchange(other, run.plant("evidence", token))).is_success
    await run.exchange(agent, evidence, scope=evidence)
    await run.exchange(agent, evidence, resource=f"https://elsewhere.example/{evidence}")
    await run.ask("POST", f"/token?subject_token={evidence}", content=evidence)
    await run.ask("POST", "/token", json={"subject_token": evidence})
    await run.ask("GET", f"/token/{evidence}")
    await run.asserted(other, "operator:admin")


async def _calls(run: Planted, agent: ec.EllipticCurvePrivateKey, token: str) -> None:
    async def secretive(_request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"role": "assistant", "content": ANSWER}}]})

    run.provider.answers["secretive"] = secretive
    messages = [{"role": "user", "content": PROMPT}]
    for model in ("stand-in-small", "secretive", "quotes-401", "nowhere", "disconnect"):
        await run.with_token(agent, token, "POST", CHAT, json={"model": model, "messages": messages})
    streamed = {"model": "stand-in-small", "messages": messages, "stream": True}
    assert (await run.with_token(agent, token, "POST", CHAT, json=streamed)).is_success
    for broken in (f'{{"model": "{PROMPT}', f'{{"model":"m","model":"{PROMPT}"}}', f'["{PROMPT}"]'):
        await run.with_token(agent, token, "POST", CHAT, content=broken)
    stolen = {"Authorization": f"DPoP {token}"}
    await run.ask("POST", CHAT, headers=stolen, json=streamed)
    await run.ask("POST", CHAT, headers={"Authorization": f"Bearer {token}"}, json=streamed)
    await run.ask("POST", f"{CHAT}?key={token}", headers={**stolen, "DPoP": run.proof(agent, CHAT, token=token)})
    await run.ask("GET", f"/api/v1/agents/{token}", headers=stolen)
    await run.ask("GET", f"/log/{token}")


def _private(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    return {**jwk.to_members(key.public_key()), "d": _d(key)}


def _files(folder: Path) -> bytes:
    """All bytes of the data folder but the broker's own private keys, which belong there."""
    kept = [path for path in sorted(folder.rglob("*")) if path.is_file() and folder / "keys" not in path.parents]
    assert any(path.suffix == ".db" for path in kept)
    return b"\0".join(path.read_bytes() for path in kept if path.name != "reserve")


@pytest.mark.sqlite
async def test_no_secret_leaves_its_place(tmp_path: Path) -> None:
    """No key, evidence, token, proof, assertion, code, prompt or answer is logged, stored, quoted or published."""
    async with _serving(tmp_path) as (run, code):
        await _work(run, code)
        public = []
        for path in ("/openapi.json", "/log/checkpoint", "/.well-known/jwks.json", "/metrics", "/healthz", "/readyz"):
            public.append((await run.ask("GET", path)).text)
    for name, text in (("prompt", PROMPT), ("answer", ANSWER), ("typed", TYPED)):
        run.plant(name, text)
    for file in (tmp_path / "data" / "keys").iterdir():
        if b"PRIVATE KEY" in (pem := file.read_bytes()):
            run.plant(f"the broker's {file.name}", pem.decode().splitlines()[1])
    logged = (tmp_path / "stderr").read_bytes() + (tmp_path / "stdout").read_bytes()
    sinks = {
        "the log": logged,
        "the data folder": run.journal + _files(tmp_path / "data"),
        "refusals": "\n".join(run.refusals).encode(),
        "public paths": "\n".join(public).encode(),
    }
    assert b"broker.gateway" in logged
    assert len(run.secrets) > 60
    assert len(run.refusals) > 25
    kinds = ("TokenIssued", "CallCompleted", "CallFailed", "CallRefused", "ChangeRefused")
    assert all(kind.encode() in sinks["the data folder"] for kind in kinds)
    leaks = [
        (name, sink) for name, text in run.secrets.items() for sink, data in sinks.items() if text.encode() in data
    ]
    assert leaks == []
