"""Journey B: a model call.

1. Who calls (token and proof). 2. Which model, known or refused. 3. Decide. 4. One durable step: the proof's claim and
`CallAdmitted`, or `CallRefused`. 5. To the provider with its key; the answer streams on and is counted. 6. One durable
step: `CallCompleted` or `CallFailed`, also when the caller leaves in the middle. No database session is held while the
provider answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.refusals import RefusalCounter
from broker.clock import Clock
from broker.db.claims import Claim, ClaimTaken
from broker.errors import (
    BrokerError,
    CallDenied,
    InvalidDpopProof,
    InvalidRequest,
    InvalidToken,
    Malformed,
    NotFound,
    OutboundFailed,
    OutboundRefused,
    Refused,
)
from broker.gateway import upstream
from broker.gateway.bodies import BodyRoom, Reservation
from broker.gateway.endpoints import Catalogue, Model
from broker.gateway.upstream import ProviderKeys
from broker.gateway.wire import Asked, UsageCounter, Wire, parse_call
from broker.identity.agents import Agent
from broker.outbound import Outbound
from broker.policy.active import ActivePolicies
from broker.policy.decided import Decided
from broker.policy.explain import explain
from broker.policy.prepared import PreparedCache
from broker.policy.request import Decision, Request
from broker.tokens.bearer import Caller, Presented, TokenVerifier

log = logging.getLogger(__name__)

_END_CLAIM_S = 3600
"""How long an end that could not be written in time is tried again, at most."""


class ProviderFailed(BrokerError):
    """The provider could not be asked, or refused the broker itself."""

    reason = "provider_failed"


@dataclass(frozen=True, slots=True)
class CallRules:
    """Bounds of a call: bytes and seconds."""

    max_body_bytes: int
    connect_timeout_s: float
    first_byte_timeout_s: float


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A call as it arrived; nothing in it is verified.

    `read` gets its body, for verified callers alone, and calls its argument with the size of each piece first.
    """

    presented: Presented
    wire: Wire
    operation: str
    audience: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    read: Callable[[Callable[[int], None]], Awaitable[bytes]]
    source: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call whose admission is durable. Only `Gateway.admit` builds one."""

    call: IncomingCall
    agent: Agent
    instance: str
    model: Model
    body: bytes
    room: Reservation
    stream: bool
    record: int
    at: float


@dataclass(slots=True)
class Answer:
    """The provider's answer on its way to the caller.

    Args:
        status: what the caller gets to see.
        headers: those that may pass.
        chunks: the body as it arrives.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    chunks: AsyncIterator[bytes]


@dataclass(slots=True)
class _Outcome:
    usage: UsageCounter
    status: int = 0
    failure: str = ""
    finished: bool = False


@dataclass(slots=True)
class Gateway:
    """Everything that a call needs, put together by `broker.assembly`."""

    rules: CallRules
    verifier: TokenVerifier
    policies: ActivePolicies
    prepared: PreparedCache
    catalogue: Catalogue
    provider_keys: ProviderKeys
    outbound: Outbound
    audit: AuditLog
    refusals: RefusalCounter
    clock: Clock
    bodies: BodyRoom = field(default_factory=BodyRoom)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    def caller(self, presented: Presented, audience: str, source: str) -> Caller:
        """The verified caller; a refusal is counted, for its sender has proved nothing.

        Raises:
            InvalidToken, InvalidDpopProof, UseDpopNonce: see `TokenVerifier.caller`.
        """
        try:
            return self.verifier.caller(presented, audience)
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, self.clock.now())
            raise

    async def admit(self, call: IncomingCall) -> Admitted:
        """Decides a call and makes the decision durable.

        Raises:
            Refused: counted or recorded before it is raised.
            Unavailable: not durable; nothing was sent anywhere.
        """
        caller = self.caller(call.presented, call.audience, call.source)
        room = self.bodies.reserve(caller.principal.id)
        try:
            return await self._admit(call, caller, room)
        except BaseException:
            room.give_back()
            raise

    async def _admit(self, call: IncomingCall, caller: Caller, room: Reservation) -> Admitted:
        body = b""
        model: Model | None = None
        asked = Asked("", False)
        decided: Decided | None = None
        try:
            body = await call.read(room.take)  # only now: a stranger cannot make the broker hold one
            if call.query not in call.wire.queries:
                raise InvalidRequest("These query parameters are not forwarded. Leave them out.")
            asked = await self.bodies.read(
                body, lambda data: parse_call(call.wire, data, max_bytes=self.rules.max_body_bytes)
            )
            caller = self._as_now(caller)
            model = self.catalogue.find(call.wire.name, asked.model)
            decided = self.decide(caller, model, call.operation, stream=asked.stream)
            if not decided.permitted or not isinstance(caller.principal, Agent):
                raise CallDenied(self._why_not(decided.decision, model))
        except (Refused, Malformed) as refusal:
            denied: dict[str, object] = {
                "policies": [],
                "set": self.policies.current.hash,
                "limited_by": refusal.reason,
                **(decided.told if decided is not None else {}),
                "outcome": "deny",
                "reason": refusal.reason,
            }
            name = model.full_name if model is not None else asked.model
            await self._record(call, caller, Kind.CALL_REFUSED, name, len(body), denied, decided)
            raise
        told = decided.told
        record = await self._record(call, caller, Kind.CALL_ADMITTED, model.full_name, len(body), told, decided)
        instance = caller.token.instance or ""
        return Admitted(call, caller.principal, instance, model, body, room, asked.stream, record, self.clock.now())

    def decide(self, caller: Caller, model: Model, operation: str, *, stream: bool) -> Decided:
        """The decision on one call."""
        context: dict[str, object] = {"operation": operation, "stream": stream, "confirmation": caller.confirmation}
        policies = self.policies.current
        return self.prepared.decide(policies, caller.principal, "call", model, context, model.endpoint)

    def explain(self, agent: str, model: str, *, operation: str, stream: bool, confirmation: str) -> dict[str, object]:
        """Why a call is permitted or refused now, in words and as data.

        Args:
            agent: its id.
            model: as ceilings name it, `endpoint/model`.
            operation, stream, confirmation: the rest of the question.

        Raises:
            NotFound: no such agent or model.
        """
        principal = self.verifier.directory.agents.get(agent)
        if principal is None:
            raise NotFound(f"There is no agent {agent}.")
        resource = self.catalogue.named(model)
        context: dict[str, object] = {"operation": operation, "stream": stream, "confirmation": confirmation}
        policies = self.policies.current
        entities = policies.prepare([principal.entity(), resource.entity(), resource.endpoint.entity()])
        return explain(policies, Request(principal.uid, "call", resource.uid, context), entities).to_json()

    async def models(self, presented: Presented, *, wire: Wire, audience: str, source: str) -> list[Model]:
        """The models that the caller may call, streamed or not: the same decision as for a call, one by one.

        Raises:
            Refused: the caller is not verified.
            Unavailable: its proof could not be claimed durably.
        """
        caller = self.caller(presented, audience, source)
        await self._claim(caller)
        caller = self._as_now(caller)
        return [
            model
            for model in self.catalogue.of(wire.name)
            if any(
                self.decide(caller, model, operation, stream=stream).permitted
                for operation in wire.paths
                for stream in (False, True)
            )
        ]

    @asynccontextmanager
    async def forward(self, admitted: Admitted) -> AsyncIterator[Answer]:
        """Sends an admitted call to its provider; its end is recorded when the block is left, however that happens.

        Raises:
            ProviderFailed: the provider could not be asked.
        """
        endpoint, wire, query = admitted.model.endpoint, admitted.call.wire, admitted.call.query.decode("ascii")
        outcome = _Outcome(UsageCounter(wire, stream=admitted.stream))
        try:
            headers = self.provider_keys.headers(wire, endpoint, admitted.call.headers)
            async with self.outbound.open_stream(
                "POST",
                endpoint.base_url + wire.paths[admitted.call.operation] + (f"?{query}" if query else ""),
                headers,
                admitted.body,
                connect_timeout_s=self.rules.connect_timeout_s,
                first_byte_timeout_s=self.rules.first_byte_timeout_s,
                idle_timeout_s=self.rules.first_byte_timeout_s,
            ) as response:
                outcome.status = response.status
                if response.status in (401, 403):
                    # The provider's text may quote the key it was sent.
                    raise ProviderFailed(
                        f"The provider of {endpoint.name} refused the broker's key. An admin mends it."
                    )
                counted = _counted(response.chunks, outcome)
                yield Answer(response.status, upstream.answer_headers(wire, response.headers), counted)
        except (OutboundFailed, OutboundRefused) as error:
            outcome.failure = error.reason
            log.warning("call %s to %s: %s", admitted.call.request_id, endpoint.name, error.detail)
            raise ProviderFailed(
                f"The provider of {endpoint.name} could not be asked ({error.reason}). Try again; its log says more."
            ) from error
        except ProviderFailed as error:
            outcome.failure = error.reason
            raise
        finally:
            await self._end(admitted, outcome)

    async def finish(self) -> None:
        """Waits until the ends of all calls are recorded; at shutdown."""
        while self._ending:
            await asyncio.wait(self._ending)

    async def _end(self, admitted: Admitted, outcome: _Outcome) -> None:
        """Records the end. The record is written even when the caller's own task is cancelled."""
        admitted.room.give_back()
        outcome.usage.finish()
        # Clients close a stream as soon as they have read its last event, before its bytes have ended.
        finished = outcome.finished or outcome.usage.done
        ok = finished and 200 <= outcome.status < 300 and not outcome.usage.failed
        said = "provider_error" if outcome.usage.failed else "provider_status" if finished else "left"
        failure = "" if ok else outcome.failure or said
        event = Event(
            Kind.CALL_COMPLETED if ok else Kind.CALL_FAILED,
            agent=admitted.agent.id,
            at=self.clock.now(),
            request_id=admitted.call.request_id,
            who={"agent": admitted.agent.id, "instance": admitted.instance},
            for_whom={"owner": admitted.agent.owner},
            what={"action": "call", "model": admitted.model.full_name},
            request={
                "status": outcome.status,
                "failure": failure,
                "bytes": outcome.usage.size,
                "input_tokens": outcome.usage.input_tokens,
                "output_tokens": outcome.usage.output_tokens,
                "took_ms": max(0, int((self.clock.now() - admitted.at) * 1000)),
                "admitted": admitted.record,
            },
        )
        # One end for each call, however often writing it is tried.
        once = Claim(f"end:{admitted.record}", "", self.clock.now() + _END_CLAIM_S)
        task = asyncio.create_task(self.audit.close_later(Step((event,), (once,))))
        self._ending.add(task)  # the loop holds tasks weakly
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    def _as_now(self, caller: Caller) -> Caller:
        """The caller with its principal as it is now: a suspension does not wait for a body that takes its time."""
        principal = self.verifier.directory.principal(caller.token.subject)
        if principal is None:
            raise InvalidToken("The token's subject is not registered any more. Exchange evidence again.")
        return replace(caller, principal=principal)

    async def _record(
        self,
        call: IncomingCall,
        caller: Caller,
        kind: Kind,
        model: str,
        size: int,
        decision: Mapping[str, object],
        decided: Decided | None,
    ) -> int:
        principal = caller.principal
        event = Event(
            kind,
            agent=principal.id,
            at=self.clock.now(),
            request_id=call.request_id,
            who={"agent": principal.id, "instance": caller.token.instance or "", "thumbprint": caller.token.jkt or ""},
            for_whom={"owner": principal.owner if isinstance(principal, Agent) else ""},
            what={"action": "call", "operation": call.operation, "model": model, "token_id": caller.token.jti},
            decision=decision,
            request={"source": call.source, "bytes": size},
            posture={"confirmation": caller.confirmation},
            inputs=decided.inputs if decided is not None else (),
        )
        try:
            return (await self.audit.record(Step((event,), caller.claims))).indices[0]
        except ClaimTaken:
            raise InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof") from None

    async def _claim(self, caller: Caller) -> None:
        try:
            await self.audit.record(Step((), caller.claims))
        except ClaimTaken:
            raise InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof") from None

    def _why_not(self, decision: Decision, model: Model) -> str:
        """What a refused person can do, in the words of the policies that refused."""
        advice = {policy.id: policy.annotations.get("advice", "") for policy in self.policies.current.deciding("call")}
        told = " ".join(filter(None, (advice.get(policy, "") for policy in decision.policies)))
        if decision.policies:
            return f"{model.full_name} is refused by {', '.join(decision.policies)}. {told}".strip()
        return f"No policy permits {model.full_name} for this caller. An admin can add one."


async def _counted(chunks: AsyncIterator[bytes], outcome: _Outcome) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        outcome.usage.feed(chunk)
        yield chunk
    outcome.finished = True
