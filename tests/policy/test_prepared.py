"""Kept decisions: the same answer as a fresh one, and never one that was made from other values."""

from __future__ import annotations

from dataclasses import dataclass

from broker.policy.engine import PolicySet, Request
from broker.policy.prepared import PreparedCache
from broker.policy.request import Entity, Uid
from tests.policy.test_decide import PERMIT_CALLS
from tests.policy.world import agent, call, compiled, extended, model, shipped_set

FACTS = dict(call(agent(), model()).context)


@dataclass(frozen=True)
class Thing:
    """Something that policies can speak about."""

    is_: Entity

    @property
    def uid(self) -> Uid:
        """Its name."""
        return self.is_.uid

    def entity(self) -> Entity:
        """Itself."""
        return self.is_


WHO, WHAT, ABOVE = Thing(agent()), Thing(model()), Thing(Entity(("Endpoint", "openai"), {"wire": "openai"}))


def _ask(cache: PreparedCache, policies: PolicySet, who: Thing = WHO, **facts: object) -> bool:
    return cache.decide(policies, who, "call", WHAT, {**FACTS, **facts}, ABOVE).permitted


def test_a_kept_decision_is_the_fresh_one() -> None:
    """Asked once or twice, the whole answer is what the set itself says."""
    cache, policies = PreparedCache(), shipped_set()
    entities = policies.prepare([WHO.is_, WHAT.is_, ABOVE.is_])
    fresh = policies.decide(Request(WHO.uid, "call", WHAT.uid, FACTS), entities)
    for _ in range(2):
        assert cache.decide(policies, WHO, "call", WHAT, FACTS, ABOVE).decision == fresh
    assert fresh.permitted


def test_a_changed_principal_is_decided_anew() -> None:
    """An agent that is suspended is another value, and what was permitted to the old one is not permitted to it."""
    cache, policies = PreparedCache(), shipped_set()
    assert _ask(cache, policies)
    assert not _ask(cache, policies, Thing(agent(status="suspended")))
    assert _ask(cache, policies)


def test_a_changed_set_is_asked_anew() -> None:
    """A set that forbids is obeyed by the next request, and so is the one before it after a rollback."""
    cache, policies = PreparedCache(), shipped_set()
    forbids = extended(more='@id("stop") forbid (principal, action == Action::"call", resource);')
    assert [_ask(cache, each) for each in (policies, forbids, policies)] == [True, False, True]


def test_every_circumstance_counts() -> None:
    """Two questions that differ in one fact of the context have answers of their own, in either order."""
    forbid = '@id("s") forbid (principal, action == Action::"call", resource) when { context.stream };'
    policies = compiled(PERMIT_CALLS, forbid)
    for order in ((True, False), (False, True)):
        cache = PreparedCache()
        assert [_ask(cache, policies, stream=stream) for stream in (*order, *order)] == [
            not s for s in (*order, *order)
        ]


def test_every_action_counts() -> None:
    """What was permitted for one action is no answer for another on the same pair."""
    cache, policies = PreparedCache(), shipped_set()
    assert _ask(cache, policies)
    assert not cache.decide(policies, WHO, "exchange", WHAT, FACTS, ABOVE).permitted
