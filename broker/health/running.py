"""What a running broker says of itself: its log, its issuers and endpoints as it reaches them now, its people.

Asked from outside, it asks outside: only the issuers and endpoints that are configured and active, through the one
door, a few at once and for a bounded time, and once however many ask together. No key of a provider is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from email.utils import parsedate_to_datetime

from broker.assembly import Broker
from broker.changes.second_person import may
from broker.errors import BrokerError
from broker.gateway.endpoints import Endpoint
from broker.health.finding import Finding, worse
from broker.identity.attesters import Attester

_KEPT_S = 5.0
_AT_ONCE = 8
_TIME_S = 30.0
_LEEWAY_S = 30.0
"""How far the clock of an issuer may be from ours before its evidence is refused."""
_WAITING_WARN_S, _WAITING_FAIL_S = 10.0, 60.0

Check = Callable[[Broker], Awaitable[Finding]]


class Examination:
    """Looks at a broker, once at a time: who asks while one runs, or just after, gets the same answer.

    Args:
        broker: which.
        time_s: after which what has not answered is left.
    """

    def __init__(self, broker: Broker, *, time_s: float = _TIME_S) -> None:
        self._broker = broker
        self._time_s = time_s
        self._task: asyncio.Task[list[Finding]] | None = None
        self._ended = 0.0

    async def findings(self) -> list[Finding]:
        """Everything that was found."""
        kept = self._task is not None and (
            not self._task.done() or self._broker.clock.monotonic() - self._ended < _KEPT_S
        )
        if self._task is None or not kept:
            self._task = asyncio.create_task(self._examine())
        return await asyncio.shield(self._task)

    async def _examine(self) -> list[Finding]:
        found: list[Finding] = []
        for name, check in CHECKS.items():
            try:
                found.append(await check(self._broker))
            except BrokerError as error:
                found.append(Finding(name, "fail", error.detail, "look at the broker's log"))
        found += await self._asked_outside()
        self._ended = self._broker.clock.monotonic()
        return found

    async def _asked_outside(self) -> list[Finding]:
        """Issuers and endpoints, by name; what has not answered in time says so."""
        broker, turn = self._broker, asyncio.Semaphore(_AT_ONCE)

        async def in_turn(asking: Coroutine[None, None, Finding]) -> Finding:
            try:
                async with turn:
                    return await asking
            finally:
                asking.close()

        named = {f"issuer {a.name}": issuer(broker, a) for a in _attesters(broker)}
        named |= {f"endpoint {e.name}": endpoint(broker, e) for e in _endpoints(broker)}
        tasks = {name: asyncio.create_task(in_turn(asking)) for name, asking in named.items()}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=self._time_s)
        late = [task for task in tasks.values() if task.cancel()]
        await asyncio.gather(*late, return_exceptions=True)
        return [
            _late(name, self._time_s) if task.cancelled() else task.result() for name, task in sorted(tasks.items())
        ]


async def recording(broker: Broker) -> Finding:
    """Whether the broker can record, and so do anything."""
    audit = broker.audit
    if audit.winding_down:
        return Finding("recording", "fail", "winding down: the disk is full", "make room; it then goes on by itself")
    if not audit.ready and not audit.owed:
        return Finding("recording", "fail", "the last transaction failed", "look at the broker's log")
    if audit.owed:
        return Finding("recording", "warn", f"{audit.owed} ends are owed a record", "look at the broker's log")
    return Finding("recording", "ok", f"{audit.size} records are durable, none is owed")


async def integration(broker: Broker) -> Finding:
    """How long entries have been waiting for a checkpoint."""
    log = await asyncio.to_thread(broker.tree.backlog)
    waiting = 0.0 if log.oldest_waiting_at is None else max(broker.clock.now() - log.oldest_waiting_at, 0.0)
    status = worse(waiting, warn=_WAITING_WARN_S, fail=_WAITING_FAIL_S)
    found = f"covers {log.covered} of {log.records} records"
    if log.newest_covered_at is not None:
        found += f", the newest of them {max(broker.clock.now() - log.newest_covered_at, 0.0):.0f} s old"
    if log.oldest_waiting_at is not None:
        found += f"; the next has waited for {waiting:.1f} s"
    return Finding("checkpoint", status, found, "look at the broker's log" if status != "ok" else "")


async def policies(broker: Broker) -> Finding:
    """What is in force."""
    current = broker.policies.current
    found = f"set {current.hash[:12]}…, {len(current.policies)} policies, activation {broker.policies.revision}"
    return Finding("policies", "ok", found)


async def people(broker: Broker) -> Finding:
    """Who could approve what another proposes."""
    signed_in = [o for o in broker.directory.operators.values() if o.status == "active" and o.keys]
    names = sorted(o.name for o in signed_in if may(broker.policies.current, o, "approve"))
    if len(names) >= 2:
        return Finding("approvers", "ok", ", ".join(names))
    alone = f"only {names[0]}: nothing needs a second person" if names else "nobody"
    return Finding("approvers", "warn" if names else "fail", alone, "add an admin: `broker apply` with `operators`")


CHECKS: Mapping[str, Check] = {
    "recording": recording,
    "checkpoint": integration,
    "policies": policies,
    "approvers": people,
}
"""What is looked at inside, in the order in which it is shown."""


async def issuer(broker: Broker, attester: Attester) -> Finding:
    """Whether an attester's issuer gives its keys now, and whether its clock is ours."""
    name = f"issuer {attester.name}"
    if attester.jwks:
        return Finding(name, "ok", f"{len(attester.jwks)} keys are pinned; nothing is asked")
    try:
        answer = await broker.issuers.ask(attester)
    except BrokerError as error:
        return Finding(name, "fail", error.detail, "its evidence is refused once the keys in use are an hour old")
    age = "none are in use yet" if answer.used_age_s is None else f"those in use are {answer.used_age_s:.0f} s old"
    found = f"{answer.keys} keys at {attester.issuer}; {age}"
    off = _ahead(answer.date, broker.clock.now())
    if off is None:
        return Finding(name, "ok", f"{found}; it tells no time")
    status = worse(abs(off), warn=_LEEWAY_S, fail=float("inf"))
    advice = "one of the two clocks is wrong: its evidence looks expired, or not yet good" if status != "ok" else ""
    return Finding(name, status, f"{found}; its clock is {off:+.0f} s from the broker's", advice)


async def endpoint(broker: Broker, endpoint: Endpoint) -> Finding:
    """Whether an endpoint's origin can be connected to; nothing is sent."""
    name = f"endpoint {endpoint.name}"
    try:
        address = await broker.outbound.reach(endpoint.base_url)
    except BrokerError as error:
        return Finding(name, "fail", error.detail, "calls of its models fail until it can be reached")
    return Finding(name, "ok", f"{endpoint.origin} answers at {address}")


def _attesters(broker: Broker) -> list[Attester]:
    return [a for a in broker.directory.attesters.values() if a.kind == "oidc" and a.status == "active"]


def _endpoints(broker: Broker) -> list[Endpoint]:
    return [e for e in broker.gateway.catalogue.endpoints.values() if e.status == "active"]


def _late(name: str, time_s: float) -> Finding:
    return Finding(name, "fail", f"no answer within {time_s:g} s of all", "look at it by itself")


def _ahead(date: str, now: float) -> float | None:
    """How far a `Date` header is ahead of our clock, in whole seconds (RFC 9110 §5.6.7); None if it tells no time."""
    try:
        return parsedate_to_datetime(date).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
