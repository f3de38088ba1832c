"""Values on their way into Cedar: what goes through, and what must not."""

from __future__ import annotations

import json

import pytest

from broker.errors import Malformed
from broker.policy.request import Entity, EntityRef, Request, context_json, entities_json
from tests.policy.world import compiled


def test_values_are_written_as_they_are() -> None:
    """Texts, numbers, truth values, lists of texts and references keep their meaning."""
    context = {"t": 'a "b"', "n": -3, "b": True, "l": ["x", "y"], "r": EntityRef(("Agent", "a"))}
    assert json.loads(context_json(context)) == {**context, "r": {"__entity": {"type": "Agent", "id": "a"}}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        float("nan"),
        b"x",
        {"__entity": {"type": "Role", "id": "admin"}},
        {"__extn": {"fn": "ip", "arg": "10.0.0.1"}},
        {},
        [1],
        ["a", None],
        [["a"]],
        [{"__entity": {"type": "Role", "id": "admin"}}],
        {"a"},
        2**64,
        "\ud800",
        ["\ud800"],
    ],
    ids=repr,
)
def test_everything_else_is_refused(value: object) -> None:
    """In a context, an attribute or a tag, nothing goes through that Cedar could take for more."""
    for entity in (Entity(("A", "a"), {"x": value}), Entity(("A", "a"), tags={"x": value})):
        with pytest.raises(Malformed):
            entities_json([entity])
    with pytest.raises(Malformed):
        context_json({"x": value})


def test_a_mapping_cannot_name_an_entity() -> None:
    """Where the vocabulary wants an entity, only an `EntityRef` is one: a claim of that shape is an error."""
    policies = compiled('@id("k") @agent("a") permit (principal, action == Action::"enrol", resource);')
    key = Entity(("KeyEvidence", "k"), {"agent": "a", "thumbprint": "t"})
    attester, lists = Entity(("Attester", "keys"), {"kind": "key"}), Entity(("ListClaims", "l"))
    entities = policies.prepare([key, attester, lists])
    told = Request(key.uid, "enrol", attester.uid, {"lists": EntityRef(lists.uid)})
    smuggled = Request(key.uid, "enrol", attester.uid, {"lists": {"__entity": {"type": "ListClaims", "id": "l"}}})
    assert policies.decide(told, entities).permitted
    assert policies.decide(smuggled, entities).limited_by == "error"
