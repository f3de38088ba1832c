"""Prepared entities, kept: parsing the same agent and resource for every request would cost more than deciding."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from broker.policy.engine import PolicySet, PreparedEntities
from broker.policy.request import Entity, Uid


class Described(Protocol):
    """Anything immutable that policies can speak about."""

    @property
    def uid(self) -> Uid:
        """Its name in policies."""

    def entity(self) -> Entity:
        """What policies can ask about it."""


class PreparedCache:
    """The entities of recent (principal, resource) pairs.

    A kept pair serves only the very values it was made from: a changed agent is another value, and a changed vocabulary
    another set of handles.

    Args:
        capacity: pairs kept; the least recently used goes first.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[Uid, Uid], tuple[Described, Described, PreparedEntities]] = OrderedDict()

    def of(self, policies: PolicySet, principal: Described, resource: Described, *above: Described) -> PreparedEntities:
        """The pair's entities, prepared for the vocabulary of `policies`.

        Args:
            policies: the set that will be asked.
            principal, resource: the pair.
            above: what the resource belongs to; always the same for the same resource.

        Raises:
            Malformed: one of the two does not fit the vocabulary.
        """
        key = (principal.uid, resource.uid)
        kept = self._kept.get(key)
        if kept is not None and kept[0] is principal and kept[1] is resource and policies.takes(kept[2]):
            self._kept.move_to_end(key)
            return kept[2]
        entities = policies.prepare([each.entity() for each in (principal, resource, *above)])
        self._kept[key] = (principal, resource, entities)
        if len(self._kept) > self._capacity:
            self._kept.popitem(last=False)
        return entities
