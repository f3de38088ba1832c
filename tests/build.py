"""Builds what tests need: a real broker on loopback with a platform, a provider and an admin.

Nothing of ours is replaced but the clock, the disk and the network, through the arguments that production has too.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec

from broker import jobs, migrations
from broker.assembly import Broker, assemble
from broker.client import BrokerAuth
from broker.clock import Clock, SystemClock
from broker.db.writer import no_probe
from broker.demo.platform import StandInPlatform
from broker.demo.provider import StandInProvider
from broker.entropy import new_id, system_entropy
from broker.formats import dpop, jwk
from broker.settings import Gateway, Keys, Outgoing, Secret, Server, Settings, Storage, Tokens
from broker.web.app import App
from broker.web.protocol import BoundedProtocol
from tests import databases
from tests.check_log import check_public_log, check_schema
from tests.serving import PromptServer, http_client

AGENT = "nightly"
SUBJECT = "job-7"
MODEL = "stand-in-small"
OTHER_MODEL = "stand-in-large"
PROVIDER_KEY_VARIABLE = "TEST_PROVIDER_KEY"

PATIENCE_S = 20.0
"""How long a commit may take where no test is about that: longer than the product allows, for a busy machine's disk."""

RULE = """
@id("nightly-job") @agent("nightly") @owner("team-data") @purpose("summaries") @ceiling("stand-in/stand-in-small")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
when { principal.subject == "job-7" };
"""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def es256() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def settings_for(
    folder: Path,
    *,
    port: int | None = None,
    server: Mapping[str, Any] | None = None,
    allow: tuple[str, ...] = (),
    secrets: Mapping[str, Secret] | None = None,
    tokens: Tokens | None = None,
    gateway: Gateway | None = None,
    storage: Mapping[str, Any] | None = None,
    keys: Keys | None = None,
) -> Settings:
    """Settings for a broker in `folder` on loopback; without a bound of its own a commit may take its time."""
    given = {"data_dir": folder / "data", "database": databases.url_for(folder), "reserve_mb": 8, **(storage or {})}
    stored = Storage(**given)
    if "commit_timeout_s" not in given:
        stored = stored.model_copy(update={"commit_timeout_s": PATIENCE_S})
    return Settings(
        server=Server(port=port or free_port(), **(server or {})),
        storage=stored,
        outgoing=Outgoing(allow=allow),
        secrets=dict(secrets or {}),
        tokens=tokens or Tokens(),
        gateway=gateway or Gateway(),
        keys=keys or Keys(),
    )


@dataclass(slots=True)
class Running:
    """A broker that answers at `url`, with what stands around it."""

    broker: Broker
    url: str
    clock: Clock
    platform: StandInPlatform
    provider: StandInProvider
    folder: Path
    stack: AsyncExitStack
    checkpoint: str | None = None
    whole_records: bool = True
    """Whether every record is one that the broker makes; a test that appends others says no."""
    admin_key: ec.EllipticCurvePrivateKey = field(default_factory=es256)

    async def client(self, auth: httpx2.Auth | None = None) -> httpx2.AsyncClient:
        """An HTTP client that is closed with the broker; paths are relative to the broker."""
        return await self.stack.enter_async_context(http_client(base_url=self.url, auth=auth, timeout=30))

    async def operator(
        self, name: str = "admin", *, link: str | None = None, key: ec.EllipticCurvePrivateKey | None = None
    ) -> httpx2.AsyncClient:
        """Signs an operator in by a one-time link and gives a client of the API with that operator's tokens."""
        key = key or es256()
        link = link or await self.broker.sign_in.link(name)
        url = f"{self.url}/login"
        proof = dpop.prove(key, method="POST", url=url, now=self.clock.now(), jti=new_id(system_entropy))
        async with http_client() as client:
            answer = await client.post(url, json={"code": link.partition("#")[2]}, headers={"DPoP": proof})
        assert answer.status_code == 200, answer.text
        auth = BrokerAuth(
            self.url, client_id=answer.json()["client_id"], key=key, audience=f"{self.url}/api/v1", clock=self.clock
        )
        return await self.client(auth)

    def evidence(self, subject: str = SUBJECT, **claims: object) -> str:
        """An identity token of the platform for this broker."""
        return self.platform.identity_token(subject, self.url, claims)

    async def agent(self, subject: str = SUBJECT, **arguments: Any) -> httpx2.AsyncClient:
        """A client with an agent's tokens, made from the platform's evidence."""
        return await self.client(BrokerAuth(self.url, lambda: self.evidence(subject), clock=self.clock, **arguments))

    async def apply(self, manifest: Mapping[str, Any], by: httpx2.AsyncClient | None = None) -> dict[str, Any]:
        """Proposes a manifest as an admin and gives the answer; fails unless it was taken."""
        client = by or await self.operator()
        answer = await client.post("/api/v1/changes", json=manifest)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def world(self, **more: Any) -> dict[str, Any]:
        """A manifest: the platform is trusted, the provider offers two models, a rule enrols one agent for one."""
        return {
            "attesters": {
                "platform": {
                    "kind": "oidc",
                    "issuer": self.platform.issuer,
                    "audience": self.url,
                    "algorithms": ["ES256"],
                }
            },
            "endpoints": {
                "stand-in": {
                    "base_url": f"{self.provider.origin}/v1",
                    "secret": "provider-key",
                    "models": [MODEL, OTHER_MODEL],
                }
            },
            "policies": {"nightly.cedar": RULE},
            **more,
        }

    async def kinds(self) -> list[str]:
        """The kinds of all records, oldest first."""
        rows = await self.broker.read(
            lambda session: list(session.connection().exec_driver_sql("SELECT kind FROM records ORDER BY idx"))
        )
        return [str(row[0]) for row in rows]

    async def check_schemas(self) -> None:
        """Every record, whatever the test was about, fits the schema of its kind."""
        sql = "SELECT idx, kind, groups FROM records ORDER BY idx"
        rows = await self.broker.read(lambda s: [tuple(row) for row in s.connection().exec_driver_sql(sql)])
        for index, kind, groups in rows:
            check_schema(kind, {name: text.encode() for name, (_, text) in orjson.loads(groups).items()}, index)

    async def check_log(self) -> None:
        """Integrates, and re-verifies the whole log from its public bytes, consistent with the last checkpoint kept."""
        await asyncio.to_thread(self.broker.tree.integrate)
        async with http_client(base_url=self.url) as client:

            async def fetch(path: str) -> bytes:
                answer = await client.get(path)
                assert answer.status_code == 200, f"{path}: {answer.status_code}"
                return answer.content

            entries = await self.broker.read(
                lambda s: [
                    (bytes(e), bytes(c), bytes(g))
                    for e, c, g in s.connection().exec_driver_sql(
                        "SELECT entry, commitments, groups FROM records ORDER BY idx"
                    )
                ]
            )
            self.checkpoint = await check_public_log(fetch, self.broker.log_key, entries, self.checkpoint)


@asynccontextmanager
async def running(
    folder: Path,
    *,
    clock: Clock | None = None,
    probe: Callable[[str], None] = no_probe,
    with_jobs: bool = False,
    platform: StandInPlatform | None = None,
    provider: StandInProvider | None = None,
    **arguments: Any,
) -> AsyncIterator[Running]:
    """A broker on real HTTP; leaving stops it in good order. Use the same folder again to restart it.

    Args:
        folder: holds its data.
        clock: its time, and that of everything around it.
        probe: see `broker.db.writer`.
        with_jobs: whether periodic work runs; else a test calls it.
        platform, provider: stand-ins to use; new ones unless given.
        arguments: for `settings_for`.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        if platform is None:
            platform = await stack.enter_async_context(StandInPlatform(clock=clock, entropy=system_entropy))
        if provider is None:
            provider = await stack.enter_async_context(StandInProvider(clock=clock, entropy=system_entropy))
        key_file = folder / "provider.key"
        key_file.write_text(provider.key)
        key_file.chmod(0o600)
        settings = settings_for(
            folder,
            allow=tuple(origin.partition("://")[2] for origin in (platform.origin, provider.origin)),
            secrets={"provider-key": Secret(file=key_file, origins=(provider.origin,))},
            **arguments,
        )
        broker = assemble(settings, prepare=migrations.upgrade, clock=clock, probe=probe)

        @asynccontextmanager
        async def life() -> AsyncIterator[None]:
            await broker.start()
            try:
                async with AsyncExitStack() as inner:
                    if with_jobs:
                        await inner.enter_async_context(jobs.running(broker))
                    yield
            finally:
                await broker.close()

        config = uvicorn.Config(
            App(broker, life),
            host="127.0.0.1",
            port=settings.server.port,
            log_config=None,
            access_log=False,
            ws="none",
            proxy_headers=False,
            http=BoundedProtocol,
        )
        server = PromptServer(config)
        serving = asyncio.create_task(server.serve())
        try:
            while not server.started:
                await asyncio.sleep(0.005)
                if serving.done():
                    serving.result()
                    raise AssertionError("the broker did not start")
            async with AsyncExitStack() as clients:
                yield (run := Running(broker, settings.issuer, clock, platform, provider, folder, clients))
                if run.whole_records:
                    await run.check_schemas()
        finally:
            server.stop()
            await serving


async def token_request(
    run: Running,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    evidence: str | None = None,
    proof: str | None = None,
    headers: Mapping[str, str] | None = None,
    **form: str,
) -> httpx2.Response:
    """One request to `/token`, made by hand so that a test can break each part of it."""
    key = key or es256()
    fields = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": evidence if evidence is not None else run.evidence(),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        **form,
    }
    if proof is None:
        proof = dpop.prove(key, method="POST", url=f"{run.url}/token", now=run.clock.now(), jti=new_id(system_entropy))
    sent = {"DPoP": proof, **(headers or {})}
    async with http_client() as client:
        return await client.post(
            f"{run.url}/token",
            data={k: v for k, v in fields.items() if v},
            headers={k: v for k, v in sent.items() if v},
        )


def call_headers(
    run: Running,
    token: str,
    key: ec.EllipticCurvePrivateKey,
    path: str = "/openai/v1/chat/completions",
    method: str = "POST",
) -> dict[str, str]:
    """The headers of one call: the token and a fresh proof."""
    proof = dpop.prove(
        key, method=method, url=f"{run.url}{path}", now=run.clock.now(), jti=new_id(system_entropy), access_token=token
    )
    return {"Authorization": f"DPoP {token}", "DPoP": proof}


def thumbprint(key: ec.EllipticCurvePrivateKey) -> str:
    """The RFC 7638 thumbprint of a key's public half."""
    return jwk.parse_public(jwk.to_members(key.public_key())).thumbprint
