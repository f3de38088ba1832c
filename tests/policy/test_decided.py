"""A decision as records tell it: what is needed to make it again, under a digest that tells every difference."""

from __future__ import annotations

import hashlib
import json

import pytest

from broker.errors import Malformed
from broker.policy.decided import cut, read_context, read_slice, told
from broker.policy.request import Entity, EntityRef, Request

WHO = Entity(("Agent", "a"), {"owner": "x", "ceiling": ["m/*"], "n": 3, "on": True}, (("Team", "t"),), {"k": ["v"]})
WHAT = Entity(("Model", "m/m"), {"of": EntityRef(("Endpoint", "m"))})


def test_a_slice_is_read_as_it_was_cut() -> None:
    """Attributes of every kind, parents, tags, and values that point to entities."""
    slice = cut(WHO.uid, WHAT.uid, [WHO, WHAT])
    found = read_slice(slice.content)
    assert (found.principal, found.resource) == (WHO.uid, WHAT.uid)
    assert cut(found.principal, found.resource, found.entities) == slice
    assert found.entities[0] == WHO
    assert found.entities[1].attrs == WHAT.attrs
    assert slice.digest == hashlib.sha256(slice.content).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        Entity(WHO.uid, {**WHO.attrs, "n": 4}, WHO.parents, WHO.tags),
        Entity(WHO.uid, {**WHO.attrs, "on": False}, WHO.parents, WHO.tags),
        Entity(WHO.uid, WHO.attrs, (), WHO.tags),
        Entity(WHO.uid, WHO.attrs, WHO.parents, {"k": ["w"]}),
        Entity(("Agent", "b"), WHO.attrs, WHO.parents, WHO.tags),
    ],
)
def test_whatever_differs_has_another_digest(other: Entity) -> None:
    """An attribute, a parent, a tag, a name."""
    assert cut(WHO.uid, WHAT.uid, [other, WHAT]).digest != cut(WHO.uid, WHAT.uid, [WHO, WHAT]).digest


def test_a_context_that_points_to_entities_is_told_by_the_slice() -> None:
    """As it was, and under a digest of its own; a slice without one has none."""
    context = {"lists": EntityRef(("ListClaims", "l"))}
    slice = cut(WHO.uid, WHAT.uid, [WHO, WHAT], context)
    assert read_slice(slice.content).context == context
    assert slice.digest != cut(WHO.uid, WHAT.uid, [WHO, WHAT]).digest
    assert read_slice(cut(WHO.uid, WHAT.uid, [WHO, WHAT]).content).context == {}


def test_a_context_is_read_as_it_is_told() -> None:
    """Plain values, and those that point to entities."""
    context = {"a": "x", "n": 1, "on": False, "lists": EntityRef(("ListClaims", "l"))}
    from broker.policy.request import Decision

    decided = told(Request(WHO.uid, "call", WHAT.uid, context), Decision(True, ("p",), "h", ""), None)
    inputs = decided.told["inputs"]
    assert isinstance(inputs, dict)
    assert read_context(json.loads(json.dumps(inputs))) == context
    assert (decided.told["entities"], decided.inputs) == ("", ())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"principal":{},"resource":{},"entities":[]}',
        b'{"principal":"a","resource":"b","entities":3}',
    ],
)
def test_what_is_no_slice_is_refused(content: bytes) -> None:
    """Whatever stands in the file."""
    with pytest.raises(Malformed):
        read_slice(content)
