"""An OpenID issuer that can go wrong in every way that matters, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from broker.clock import Clock
from broker.demo.platform import KEYS_PATH, StandInPlatform
from broker.entropy import Entropy, system_entropy
from broker.identity.attesters.attester import Attester, parse
from broker.identity.attesters.oidc import OidcVerifier
from broker.outbound import Outbound
from tests.fakes import FakeClock

AUDIENCE = "https://broker.example"


class FickleIssuer(StandInPlatform):
    """A platform whose documents a test can change.

    Attributes:
        down: answer 503 to everything.
        gate: while it is closed, nobody gets an answer.
        somebody_waits: set once somebody waits at the closed gate.
        document: members that replace those of the discovery document.
        key_set: replaces the whole key set.
    """

    def __init__(self, *, clock: Clock, entropy: Entropy = system_entropy) -> None:
        super().__init__(clock=clock, entropy=entropy)
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.somebody_waits = asyncio.Event()
        self.document: dict[str, Any] = {}
        self.key_set: object = None

    @property
    def asked(self) -> int:
        """How often its key set was asked for."""
        return self.fetches[KEYS_PATH]

    def forget_older_keys(self) -> None:
        """Signs with a new key, and publishes that one alone."""
        self.rotate()
        del self._keys[:-1]

    def close_gate(self) -> None:
        """Keeps everybody waiting until the gate is opened."""
        self.gate.clear()
        self.somebody_waits.clear()

    async def _metadata(self, request: web.Request) -> web.Response:
        answer = await self._answer(await super()._metadata(request))
        if not self.document or answer.status != 200:
            return answer
        return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}{KEYS_PATH}", **self.document})

    async def _published(self, request: web.Request) -> web.Response:
        answer = await self._answer(await super()._published(request))
        return answer if self.key_set is None or answer.status != 200 else web.json_response(self.key_set)

    async def _answer(self, honest: web.Response) -> web.Response:
        if not self.gate.is_set():
            self.somebody_waits.set()
        await self.gate.wait()
        return web.json_response({}, status=503) if self.down else honest


class Verified:
    """A verifier with its issuer and clock."""

    def __init__(self, issuer: FickleIssuer, outbound: Outbound, clock: FakeClock) -> None:
        self.issuer = issuer
        self.clock = clock
        self.verifier = OidcVerifier(outbound, clock)

    def attester(self, **spec: Any) -> Attester:
        """The attester of this issuer, with other members where a test wants them."""
        whole = {"kind": "oidc", "issuer": self.issuer.issuer, "audience": AUDIENCE, "algorithms": ["ES256"], **spec}
        return parse("platform", whole)

    def token(self, **claims: object) -> str:
        """An identity token of the issuer."""
        return self.issuer.identity_token("job-7", AUDIENCE, claims)

    async def accepts(self, token: str, **spec: Any) -> str:
        """The subject that the verifier finds; raises what it raises."""
        return (await self.verifier.verify(token, self.attester(**spec))).subject


@asynccontextmanager
async def verified() -> AsyncIterator[Verified]:
    """A verifier with an issuer of its own, let through the outgoing door by exact host and port."""
    clock = FakeClock()
    async with FickleIssuer(clock=clock) as issuer:
        port = int(issuer.origin.rpartition(":")[2])
        outbound = Outbound(frozenset({("127.0.0.1", port)}))
        try:
            yield Verified(issuer, outbound, clock)
        finally:
            await outbound.close()
