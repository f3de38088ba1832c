"""Drives a session through an HTTP client's auth flow, for threads and for tasks.

httpx and httpx2 are twins: both take an `Auth` whose flow yields requests and gets responses. The two drivers
here do what the session's steps ask for, in terms of what both libraries' requests and responses have in
common.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    MutableMapping,
)
from pathlib import Path
from typing import Any, Protocol, TypeVar

from broker.client.errors import EvidenceUnavailable
from broker.client.evidence import Evidence, aread_evidence, read_evidence
from broker.client.origin import Origin
from broker.client.proof_key import load_key, process_key
from broker.client.session import Session
from broker.client.steps import Acquire, Answer, Ask, Fetch, Held, Registered, Reply, Send, Step
from broker.client.token_request import JWT_TYPE
from broker.clock import Clock, SystemClock
from broker.entropy import Entropy, system_entropy
from broker.errors import ConfigurationError, Malformed
from broker.formats.jwk import PrivateKey
from broker.formats.note import NoteVerifier

TOKEN_TIMEOUT_S = 10.0
"""How long each phase of a token request may take, unless the caller's own limits are shorter."""

_WIRES = ("openai", "anthropic")
"""The parts of the broker's gateway, as its paths name them."""


class _Url(Protocol):
    @property
    def scheme(self) -> str: ...
    @property
    def raw_host(self) -> bytes: ...
    @property
    def port(self) -> int | None: ...
    @property
    def path(self) -> str: ...


class _Request(Protocol):
    @property
    def method(self) -> str: ...
    @property
    def extensions(self) -> Mapping[str, Any]: ...
    @property
    def url(self) -> _Url: ...
    @property
    def headers(self) -> MutableMapping[str, str]: ...


class _Response(Protocol):
    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def read(self) -> bytes: ...
    async def aread(self) -> bytes: ...


RequestT = TypeVar("RequestT", bound=_Request)


class Credentials:
    """What both adapters hold.

    Args:
        broker_url: the broker's issuer identifier, such as `https://broker.example`.
        evidence: where the platform's token comes from. A function that waits for the network should be
            async.
        audience: what tokens are for, an absolute URL; unless given, the part of the gateway that a request goes to.
        scope: everything that policy gives, unless named.
        client_id: in place of evidence, with `key`: the client that the key is registered for.
        key: its private key, or the PEM file it is in.
        kid: the name under which the key is registered, if it has one.
        proof_key: the key that tokens are bound to, or its PEM file; this process's own unless given.
            Processes that use the same evidence need the same one.
        subject_token_type: what kind of token the evidence is.
        allow_plain_http: take http beyond loopback, where something else encrypts.
        log_key: the log's key, as `broker keys show --log` prints it and from elsewhere than the broker: a token counts
            only once the log proves that it was issued on record, about a second after it was asked for.
        clock: the time.
        entropy: makes ids of proofs.

    Raises:
        ConfigurationError: neither or both of evidence and client, or a URL or key that is none.
    """

    def __init__(
        self,
        broker_url: str,
        evidence: Evidence | None = None,
        *,
        audience: str | None = None,
        scope: str | None = None,
        client_id: str | None = None,
        key: PrivateKey | Path | None = None,
        kid: str | None = None,
        proof_key: PrivateKey | Path | None = None,
        subject_token_type: str = JWT_TYPE,
        allow_plain_http: bool = False,
        log_key: str | None = None,
        clock: Clock | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        if (evidence is None) == (client_id is None) or (client_id is None) != (key is None):
            raise ConfigurationError("Give either evidence, or client_id with its registered key.")
        self._evidence = evidence
        self._audience = audience
        self._locks = _Locks()
        self._sessions: dict[str | None, Session] = {}
        base = broker_url.rstrip("/")
        self._gateways = {f"/{wire}/v1": f"{base}/{wire}/v1" for wire in _WIRES} if audience is None else {}
        registered = Registered(client_id, load_key(key), kid) if client_id is not None and key is not None else None
        pinned = _pinned(log_key) if log_key is not None else None
        proving = process_key() if proof_key is None else load_key(proof_key)
        self._session_for: Callable[[str | None], Session] = lambda resource: Session(
            broker_url,
            registered=registered,
            resource=resource,
            scope=scope,
            subject_token_type=subject_token_type,
            proof_key=proving,
            clock=clock or SystemClock(),
            entropy=entropy,
            allow_plain_http=allow_plain_http,
            log_key=pinned,
        )
        self._sessions[audience] = self._session_for(audience)  # so that a URL that is none is refused now

    def _session(self, path: str) -> Session:
        """The session whose tokens a request needs: each part of the gateway takes its own (RFC 8707 §2)."""
        part = "/".join(path.split("/", 3)[:3])
        resource = self._gateways.get(part, self._audience)
        session = self._sessions.get(resource)
        return session or self._sessions.setdefault(resource, self._session_for(resource))

    def _steps(self, request: _Request, *, replayable: bool) -> Generator[Step, Reply, None]:
        url = request.url
        origin = Origin.of(url.scheme, url.raw_host.decode("ascii"), url.port)
        return self._session(url.path).flow(request.method, str(url), origin, replayable=replayable)

    def _run(
        self, request: RequestT, token_request: Callable[..., RequestT], *, replayable: bool
    ) -> Generator[RequestT, _Response, None]:
        """The flow for a client that blocks.

        Args:
            request: the caller's.
            token_request: the library's `Request`.
            replayable: whether the body can be sent again.
        """
        steps = self._steps(request, replayable=replayable)
        try:
            step = next(steps)
            while True:
                reply: Reply
                if isinstance(step, Send):
                    request.headers.update(step.headers)
                    response = yield request
                    reply = Answer(response.status_code, response.headers, b"")
                elif isinstance(step, Ask):
                    response = yield _token_request(token_request, step, request, _once(step.request.body))
                    reply = Answer(response.status_code, response.headers, response.read())
                elif isinstance(step, Fetch):
                    response = yield token_request("GET", step.url, extensions={"timeout": _limits(request)})
                    reply = Answer(response.status_code, response.headers, response.read())
                elif isinstance(step, Acquire):
                    lock = self._locks.threads
                    reply = Held(lock.release) if lock.acquire(blocking=step.wait) else None
                else:
                    try:
                        reply = read_evidence(self._evidence)
                    except EvidenceUnavailable as error:
                        step = steps.throw(error)
                        continue
                step = steps.send(reply)
        except StopIteration:
            return
        finally:
            steps.close()

    async def _arun(
        self, request: RequestT, token_request: Callable[..., RequestT], *, replayable: bool
    ) -> AsyncGenerator[RequestT, _Response]:
        """The flow for a client on an event loop; see `_run`."""
        steps = self._steps(request, replayable=replayable)
        try:
            step = next(steps)
            while True:
                reply: Reply
                if isinstance(step, Send):
                    request.headers.update(step.headers)
                    response = yield request
                    reply = Answer(response.status_code, response.headers, b"")
                elif isinstance(step, Ask):
                    response = yield _token_request(token_request, step, request, _aonce(step.request.body))
                    reply = Answer(response.status_code, response.headers, await response.aread())
                elif isinstance(step, Fetch):
                    response = yield token_request("GET", step.url, extensions={"timeout": _limits(request)})
                    reply = Answer(response.status_code, response.headers, await response.aread())
                elif isinstance(step, Acquire):
                    lock = self._locks.of_this_loop()
                    if step.wait or not lock.locked():
                        await lock.acquire()
                        reply = Held(lock.release)
                    else:
                        reply = None
                else:
                    try:
                        reply = await aread_evidence(self._evidence)
                    except EvidenceUnavailable as error:
                        step = steps.throw(error)
                        continue
                step = steps.send(reply)
        except StopIteration:
            return
        finally:
            steps.close()


class _Locks:
    """Who renews: one lock for threads, one for each event loop.

    A thread that blocks on a task of its own loop would wait for ever, so the two kinds do not wait for each
    other.
    """

    def __init__(self) -> None:
        self.threads = threading.Lock()
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = weakref.WeakKeyDictionary()
        self._guard = threading.Lock()

    def of_this_loop(self) -> asyncio.Lock:
        """The lock of the running event loop."""
        with self._guard:
            return self._loops.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def _token_request(
    make: Callable[..., RequestT],
    step: Ask,
    request: _Request,
    content: Iterator[bytes] | AsyncIterator[bytes],
) -> RequestT:
    """The library's request for the token endpoint, within the caller's time limits and our own.

    Its body can be read once. A client that follows redirects therefore fails when the token endpoint
    redirects, before the evidence goes anywhere else.
    """
    headers = {**step.request.headers, "Content-Length": str(len(step.request.body))}
    return make("POST", step.request.url, headers=headers, content=content, extensions={"timeout": _limits(request)})


def _limits(request: _Request) -> dict[str, float]:
    """The caller's time limits, and ours where they are shorter or there are none."""
    given = request.extensions.get("timeout") or {}
    return {
        phase: min(TOKEN_TIMEOUT_S, given.get(phase) or TOKEN_TIMEOUT_S)
        for phase in ("connect", "read", "write", "pool")
    }


def _pinned(log_key: str) -> NoteVerifier:
    try:
        return NoteVerifier.parse(log_key.strip())
    except Malformed as error:
        raise ConfigurationError(
            f"log_key: {error.detail} Give the line that `broker keys show --log` prints."
        ) from error


def _once(body: bytes) -> Iterator[bytes]:
    yield body


async def _aonce(body: bytes) -> AsyncIterator[bytes]:
    yield body
