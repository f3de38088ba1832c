"""Prepared entities and decisions, kept: the same question on the same values has the same answer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from broker.audit.inputs import Input
from broker.policy.decided import Decided, cut, told
from broker.policy.engine import PolicySet, PreparedEntities
from broker.policy.request import Entity, Request, Uid

_QUESTIONS_A_PAIR = 64
"""Questions kept for a pair: what differs between them (streamed or not, how the token is bound) is little."""


class Described(Protocol):
    """Anything immutable that policies can speak about."""

    @property
    def uid(self) -> Uid:
        """Its name in policies."""

    def entity(self) -> Entity:
        """What policies can ask about it."""


@dataclass(slots=True)
class _Kept:
    principal: Described
    resource: Described
    entities: PreparedEntities
    slice: Input
    policies: PolicySet
    decisions: dict[object, Decided]


class PreparedCache:
    """The entities of recent (principal, resource) pairs, and what was decided on them.

    A decision follows from the set, the pair and the question alone, so the same question has the same answer: it is
    kept with the very values that it was made from. A changed agent is another value, a changed set another object, and
    nothing that was decided on the old one is used again.

    Args:
        capacity: pairs kept; the least recently used goes first.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._pairs: OrderedDict[tuple[Uid, Uid], _Kept] = OrderedDict()

    def decide(
        self,
        policies: PolicySet,
        principal: Described,
        action: str,
        resource: Described,
        context: Mapping[str, object],
        *above: Described,
    ) -> Decided:
        """Whether `principal` may do `action` on `resource`, as `policies` say.

        Args:
            policies: the set that is asked.
            principal, resource: the pair.
            action: what is asked for.
            context: the circumstances: texts, whole numbers and truth values.
            above: what the resource belongs to; always the same for the same resource.

        Raises:
            Malformed: one of the two does not fit the vocabulary.
        """
        kept = self._pair(policies, principal, resource, above)
        question = (action, *context.items())
        decision = kept.decisions.get(question)
        if decision is None:
            request = Request(principal.uid, action, resource.uid, context)
            decision = told(request, policies.decide(request, kept.entities), kept.slice)
            if len(kept.decisions) >= _QUESTIONS_A_PAIR:
                kept.decisions.clear()
            kept.decisions[question] = decision
        return decision

    def _pair(
        self, policies: PolicySet, principal: Described, resource: Described, above: tuple[Described, ...]
    ) -> _Kept:
        key = (principal.uid, resource.uid)
        kept = self._pairs.get(key)
        if kept is not None and kept.principal is principal and kept.resource is resource:
            if kept.policies is not policies:
                if not policies.takes(kept.entities):
                    kept.entities = policies.prepare(_described(principal, resource, above))
                kept.policies, kept.decisions = policies, {}
            self._pairs.move_to_end(key)
            return kept
        entities = _described(principal, resource, above)
        slice = cut(principal.uid, resource.uid, entities)
        kept = self._pairs[key] = _Kept(principal, resource, policies.prepare(entities), slice, policies, {})
        if len(self._pairs) > self._capacity:
            self._pairs.popitem(last=False)
        return kept


def _described(principal: Described, resource: Described, above: tuple[Described, ...]) -> list[Entity]:
    return [each.entity() for each in (principal, resource, *above)]
