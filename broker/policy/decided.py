"""A decision as records tell it, with what it was made from, so that anybody can make it again.

A record holds the question (action, context), the hash of the set, the answer, and the digest of a *slice*: principal,
resource and every entity as the policies saw them, in canonical JSON: `{"principal": uid, "resource": uid, "entities":
[...]}` with uids and entities in Cedar's JSON. A context that only points to entities stands in the slice too, as
`"context"`, so that a decision told briefly is told whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from broker.audit.inputs import Input
from broker.errors import Malformed
from broker.formats import canonical_json
from broker.policy.request import (
    Decision,
    Entity,
    EntityRef,
    Request,
    Uid,
    context_members,
    entities_members,
    reference,
)

MAX_SLICE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision and its question.

    Args:
        decision: the answer.
        told: both, as the decision group of a record tells them; not to be changed, for it is shared.
        inputs: what `told` names by digest; empty if the question cannot be told whole.
    """

    decision: Decision
    told: Mapping[str, object]
    inputs: tuple[Input, ...]

    @property
    def permitted(self) -> bool:
        """The answer."""
        return self.decision.permitted

    @property
    def brief(self) -> dict[str, object]:
        """What a record tells of it beside another decision on the same set; the context is in the slice."""
        return {name: self.told[name] for name in ("entities", "limited_by", "policies")}


@dataclass(frozen=True, slots=True)
class Slice:
    """What a digest stands for, read again."""

    principal: Uid
    resource: Uid
    entities: tuple[Entity, ...]
    context: Mapping[str, object]


def cut(
    principal: Uid, resource: Uid, entities: Sequence[Entity], context: Mapping[str, EntityRef] | None = None
) -> Input:
    """The slice of a question, under its digest.

    Raises:
        Malformed: an entity holds what JSON cannot say.
    """
    members = {
        "principal": reference(principal),
        "resource": reference(resource),
        "entities": entities_members(entities),
        **({"context": context_members(context)} if context else {}),
    }
    content = canonical_json.canonical(members)
    return Input(hashlib.sha256(content).hexdigest(), content)


def told(request: Request, decision: Decision, slice: Input | None) -> Decided:
    """A decision with its question.

    Args:
        request: the question.
        decision: the answer.
        slice: what the policies saw, from `cut`; None if it is not to be told, so that nobody can ask again.
    """
    members = {
        "action": request.action,
        "outcome": "permit" if decision.permitted else "deny",
        "policies": list(decision.policies),
        "set": decision.set_hash,
        "limited_by": decision.limited_by,
        "inputs": context_members(request.context),
        "entities": slice.digest if slice is not None else "",
    }
    return Decided(decision, members, (slice,) if slice is not None else ())


def read_slice(content: bytes) -> Slice:
    """Reads a slice.

    Raises:
        Malformed: it is none.
    """
    members = canonical_json.parse(content, max_bytes=MAX_SLICE_BYTES)
    try:
        assert isinstance(members, dict)
        entities = members["entities"]
        assert isinstance(entities, list)
        context = read_context(members.get("context", {}))
        return Slice(_uid(members["principal"]), _uid(members["resource"]), tuple(map(_entity, entities)), context)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise Malformed("The entities of a decision are of another shape than the broker writes.") from error


def read_context(members: Any) -> dict[str, object]:
    """A context as a record tells it.

    Raises:
        Malformed: it is none.
    """
    try:
        return {name: _value(value) for name, value in members.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Malformed("The inputs of a decision are of another shape than the broker writes.") from error


def _entity(members: Any) -> Entity:
    attrs, tags = ({name: _value(value) for name, value in members[part].items()} for part in ("attrs", "tags"))
    return Entity(_uid(members["uid"]), attrs, tuple(map(_uid, members["parents"])), tags)


def _value(value: Any) -> object:
    return EntityRef(_uid(value["__entity"])) if isinstance(value, dict) else value


def _uid(members: Any) -> Uid:
    return str(members["type"]), str(members["id"])
