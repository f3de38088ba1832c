"""Entities: checked against the vocabulary when they are prepared, reusable, and never more than data."""

from __future__ import annotations

import pytest

from broker.errors import Malformed
from broker.policy import engine
from broker.policy.engine import Entity
from tests.policy.test_decide import PERMIT_CALLS
from tests.policy.world import agent, call, extended, model, shipped_files, shipped_set


@pytest.mark.parametrize(
    "entity",
    [
        agent(status=1),
        agent(ceiling="openai/*"),
        agent(ceiling=[1]),
        agent(unknown="x"),
        agent(owner={"__entity": {"type": "Agent", "id": "a"}}),
        Entity(("Agent", "bare")),
        Entity(("Unicorn", "u")),
        Entity(("OidcEvidence", "e"), {"issuer": "i", "subject": "s"}, tags={"groups": ["a"]}),
        Entity(("ListClaims", "l"), tags={"groups": "a"}),
        Entity(("Agent", "tagged"), agent().attrs, tags={"x": "y"}),
        Entity(("Agent", "child"), agent().attrs, parents=(("Role", "admin"),)),
    ],
    ids=lambda entity: entity.uid[0] + entity.uid[1],
)
def test_an_entity_that_does_not_fit_the_vocabulary_is_refused(entity: Entity) -> None:
    """Entities are checked when they are prepared, and the refusal names the right one."""
    policies = shipped_set()
    with pytest.raises(Malformed):
        policies.prepare([model(), entity])


def test_the_refusal_names_the_entity() -> None:
    """Among several entities, the one that does not fit is named."""
    with pytest.raises(Malformed, match='Agent "odd" does not fit'):
        shipped_set().prepare([agent(), agent("odd", unknown="x"), model()])


def test_an_entity_cannot_be_described_twice() -> None:
    """A second description of the same entity that differs is refused, so that none can overrule another."""
    policies = shipped_set()
    with pytest.raises(Malformed):
        policies.prepare([agent(), agent(status="suspended")])


def test_entities_of_another_vocabulary_are_not_taken() -> None:
    """Handles that were checked against another vocabulary are an error; against the same text, fine."""
    policies = shipped_set()
    other = engine.compile(shipped_files().schema + "\n// changed", dict(shipped_files().files))
    entities = other.prepare([agent(), model()])
    assert not policies.takes(entities)
    assert policies.decide(call(agent(), model()), entities).limited_by == "error"
    assert extended(more=PERMIT_CALLS).decide(call(agent(), model()), policies.prepare([agent(), model()])).permitted


def test_a_strange_id_is_only_an_id() -> None:
    """Ids travel as data: quotes, newlines and Cedar syntax in them mean nothing."""
    policies = shipped_set()
    who = agent('x", action, resource); permit(principal, "\n\x00')
    assert policies.decide(call(who, model()), policies.prepare([who, model()])).permitted
    stranger = agent('triage"')
    assert not policies.decide(call(stranger, model()), policies.prepare([agent(), model()])).permitted
