"""A broker for a whole module, whose clock is set by hand, and requests to it of which every part can be broken."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from broker.db.engine import execute
from broker.demo.platform import StandInPlatform
from broker.entropy import new_id, system_entropy
from broker.formats import base64url, dpop, jwk
from tests.build import Running, es256, free_port, running
from tests.fakes import FakeClock
from tests.formats.forge import token as forged

EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLIENT = "batch"
OTHER_CLIENT = "reports"

ABSENT = "\x00absent"
"""Stands for a form parameter, header or claim that is left out."""


@dataclass(frozen=True, slots=True)
class Record:
    """A record as an auditor reads it."""

    kind: str
    agent: str
    groups: Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class Scene:
    """A running broker with a platform, an admin, and two clients whose keys are registered."""

    run: Running
    clock: FakeClock
    http: httpx2.AsyncClient
    admin: httpx2.AsyncClient
    keys: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The issuer identifier."""
        return self.run.url

    def proof(self, key: ec.EllipticCurvePrivateKey | None = None, *, age_s: float = 0, **changed: str) -> str:
        """A proof for the token endpoint, `age_s` seconds old, unless told otherwise."""
        made: dict[str, Any] = {"method": "POST", "url": f"{self.url}/token", "jti": new_id(system_entropy), **changed}
        return dpop.prove(key or es256(), now=self.clock.now() - age_s, **made)

    async def post(
        self,
        form: bytes | Mapping[str, str] | Sequence[tuple[str, str]],
        *,
        proof: str | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        path: str = "/token",
    ) -> httpx2.Response:
        """A POST of a form with just these headers, and a fresh proof unless `proof` is given; "" for none."""
        body = form if isinstance(form, bytes) else urlencode(form).encode()
        sent = [("content-type", "application/x-www-form-urlencoded")]
        proof = self.proof() if proof is None else proof
        if proof:
            sent.append(("dpop", proof))
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        replaced = {name.lower() for name, _ in given}
        whole = [item for item in sent if item[0] not in replaced] + [item for item in given if item[1] != ABSENT]
        return await self.http.post(path, content=body, headers=whole)

    async def exchange(
        self,
        evidence: str | None = None,
        *,
        key: ec.EllipticCurvePrivateKey | None = None,
        proof: str | None = None,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        **form: str,
    ) -> httpx2.Response:
        """A token exchange with fresh evidence and a fresh key, unless told otherwise."""
        fields = {
            "grant_type": EXCHANGE,
            "subject_token": self.run.evidence() if evidence is None else evidence,
            "subject_token_type": JWT,
            **form,
        }
        given = {name: value for name, value in fields.items() if value != ABSENT}
        return await self.post(given, proof=self.proof(key) if proof is None else proof, headers=headers)

    def assertion(
        self,
        client: str = CLIENT,
        *,
        key: Any = None,
        header: Mapping[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        """What a client signs to say who it is, with other claims or header members where a test breaks it."""
        now = int(self.clock.now())
        whole = {
            "iss": client,
            "sub": client,
            "aud": self.url,
            "iat": now,
            "exp": now + 60,
            "jti": new_id(system_entropy),
            **claims,
        }
        top = {"alg": "ES256", "typ": "client-authentication+jwt", **(header or {})}
        return forged(
            {name: value for name, value in top.items() if value != ABSENT},
            {name: value for name, value in whole.items() if value != ABSENT},
            key or self.keys[client],
        )

    async def credentials(
        self,
        assertion: str | None = None,
        *,
        client: str = CLIENT,
        key: ec.EllipticCurvePrivateKey | None = None,
        proof: str | None = None,
        headers: Mapping[str, str] = {},
        **form: str,
    ) -> httpx2.Response:
        """A client_credentials grant with private_key_jwt, unless told otherwise."""
        fields = {
            "grant_type": "client_credentials",
            "client_assertion_type": JWT_BEARER,
            "client_assertion": self.assertion(client) if assertion is None else assertion,
            **form,
        }
        given = {name: value for name, value in fields.items() if value != ABSENT}
        return await self.post(given, proof=self.proof(key) if proof is None else proof, headers=headers)

    async def call(self, token: str, key: ec.EllipticCurvePrivateKey, **changed: Any) -> httpx2.Response:
        """Asks the gateway for its models, with a bound token."""
        proof = self.proof(
            key, **{"method": "GET", "url": f"{self.url}/openai/v1/models", "access_token": token, **changed}
        )
        return await self.http.get("/openai/v1/models", headers={"authorization": f"DPoP {token}", "dpop": proof})

    async def records(self, answer: httpx2.Response | None = None) -> list[Record]:
        """The records of the request that got this answer, or all records, oldest first."""
        where, values = ("", ()) if answer is None else (" WHERE request_id = ?", (answer.headers["x-request-id"],))
        rows = await self.run.broker.read(
            lambda session: list(
                execute(session.connection(), f"SELECT kind, agent, groups FROM records{where} ORDER BY idx", values)
            )
        )
        return [
            Record(kind, agent, {name: orjson.loads(text) for name, (_, text) in orjson.loads(groups).items() if text})
            for kind, agent, groups in rows
        ]

    async def counted(self) -> Counter[str]:
        """How many refusals of strangers were counted since the last time, by reason."""
        found: Counter[str] = Counter()
        for event in self.run.broker.refusals.drain(self.clock.now(), everything=True):
            decision, request = dict(event.decision or {}), dict(event.request or {})
            found[str(decision["reason"])] += int(str(request["count"]))
        return found

    async def settled(self) -> None:
        """Waits for the records that close what nobody received."""
        await asyncio.gather(*self.run.broker.audit._tasks)

    async def apply(self, **manifest: Any) -> dict[str, Any]:
        """Activates a change as the admin."""
        return await self.run.apply(manifest, self.admin)

    async def contain(self, section: str, name: str, status: str) -> None:
        """Suspends, revokes or disables at once."""
        body = {"section": section, "name": name, "status": status, "why": "a test"}
        answer = await self.admin.post("/api/v1/contain", json=body)
        assert answer.status_code == 200, answer.text

    async def raw(self, *lines: str, body: bytes = b"") -> bytes:
        """Sends a request byte by byte as given and returns the whole answer, until the broker closes."""
        _, _, port = self.url.rpartition(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
        head = [*lines, f"content-length: {len(body)}", "connection: close"]
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


def client_spec(key: ec.EllipticCurvePrivateKey | None, **more: Any) -> dict[str, Any]:
    """A client as a manifest describes it."""
    keys = [jwk.to_members(key.public_key())] if key is not None else []
    spec = {
        "owner": "team-batch",
        "purpose": "nightly batch",
        "kind": "client",
        "ceiling": ["stand-in/stand-in-small"],
        "keys": keys,
    }
    return {**spec, **more}


@asynccontextmanager
async def opened(
    folder: Path,
    *,
    clock: FakeClock | None = None,
    keys: dict[str, ec.EllipticCurvePrivateKey] | None = None,
    **arguments: Any,
) -> AsyncIterator[Scene]:
    """A scene in `folder`, with the platform trusted, one rule, and two clients; `arguments` as for `running`.

    To restart it, open the same folder again with the same clock, keys, platform and port.
    """
    clock = clock or FakeClock()
    async with running(folder, clock=clock, **arguments) as run:
        keys = keys or {CLIENT: es256(), OTHER_CLIENT: es256()}
        scene = Scene(run, clock, await run.client(), await run.operator(), keys)
        await run.apply(run.world(agents={name: client_spec(key) for name, key in keys.items()}), scene.admin)
        await scene.counted()
        yield scene


class Gate:
    """Holds the broker's writing thread at one point of its next transaction; what comes meanwhile is queued in order.

    Give `gate.probe` to `opened` as its `probe`.

    Args:
        point: "begun" or "applied", see `broker.db.writer`.
    """

    def __init__(self, point: str = "begun") -> None:
        self._point = point
        self._open = threading.Event()
        self._open.set()
        self.held = threading.Event()

    def probe(self, point: str) -> None:
        """Called by the writing thread."""
        if point == self._point and not self._open.is_set():
            self.held.set()
            self._open.wait(30)

    def close(self) -> None:
        """From now on the writing thread is held."""
        self._open.clear()
        self.held.clear()

    def open(self) -> None:
        """Lets it go on."""
        self._open.set()

    @asynccontextmanager
    async def closed(self, scene: Scene) -> AsyncIterator[None]:
        """Inside, nothing becomes durable: a request of the scene's own holds the writing thread."""
        self.close()
        first = asyncio.create_task(scene.credentials(client=OTHER_CLIENT))
        try:
            assert await asyncio.to_thread(self.held.wait, 30)
            yield
        finally:
            self.open()
            await first

    @staticmethod
    async def queued(scene: Scene, count: int) -> None:
        """Waits until so many steps wait behind the one that is held."""
        for _ in range(10_000):
            if scene.run.broker.audit._writer._queue.qsize() >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError("nothing was queued")


class Restartable:
    """A scene that can be stopped and opened again, with its platform outside.

    Args:
        folder: holds its data.
        arguments: as for `opened`.
    """

    def __init__(self, folder: Path, platform: StandInPlatform, clock: FakeClock, **arguments: Any) -> None:
        self._folder = folder
        self._arguments = {
            "platform": platform,
            "clock": clock,
            "keys": {CLIENT: es256(), OTHER_CLIENT: es256()},
            "port": free_port(),
            **arguments,
        }

    def opened(self) -> AbstractAsyncContextManager[Scene]:
        """The scene, as it was left."""
        return opened(self._folder, **self._arguments)


@asynccontextmanager
async def restartable(folder: Path, **arguments: Any) -> AsyncIterator[Restartable]:
    """A scene to open more than once."""
    clock = FakeClock()
    async with StandInPlatform(clock=clock, entropy=system_entropy) as platform:
        yield Restartable(folder, platform, clock, **arguments)


def error_of(answer: httpx2.Response) -> tuple[int, str]:
    """Status and OAuth error code of an error answer, whose form is checked on the way (RFC 6749 §5.2)."""
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    members = answer.json()
    assert set(members) == {"error", "error_description"}
    description = members["error_description"]
    assert 20 < len(description) <= 1000
    assert all(" " <= c <= "~" and c not in '"\\' for c in description)
    return answer.status_code, members["error"]


def claims_of(answer: httpx2.Response) -> dict[str, Any]:
    """The claims of the token in an answer, unverified."""
    assert answer.status_code == 200, answer.text
    middle = answer.json()["access_token"].split(".")[1]
    found: dict[str, Any] = orjson.loads(base64url.decode(middle))
    return found
