"""The values that a decision is made from, and the decision.

A *uid* names an entity: its type in the vocabulary and its id, `("Agent", "nightly-summary")`. Values of
attributes and of context fields are `str`, `int`, `bool`, a list of `str`, or an `EntityRef`; values of tags
are `str` or a list of `str`. Nothing else goes through: Cedar's JSON gives a mapping such as `{"__entity":
…}` a meaning, so a mapping that came from a caller would let it name entities of its choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import orjson

from broker.errors import Malformed

Uid = tuple[str, str]
"""An entity's type and id."""

Effect = Literal["permit", "forbid"]

LimitedBy = Literal["", "policy", "ceiling", "no-policy", "error"]
"""What stood in the way: nothing, a forbid, a forbid that is the ceiling, no permit, a failed evaluation."""


@dataclass(frozen=True, slots=True)
class EntityRef:
    """A value that points to another entity."""

    uid: Uid


@dataclass(frozen=True, slots=True)
class Entity:
    """One thing that policies speak about, as the vocabulary declares its type.

    Args:
        uid: its type and id.
        attrs: every attribute that the vocabulary asks of the type.
        parents: the entities that it is `in`.
        tags: values under names that the vocabulary does not fix, such as the claims of a token.
    """

    uid: Uid
    attrs: Mapping[str, object] = field(default_factory=dict)
    parents: tuple[Uid, ...] = ()
    tags: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """The question: may this principal do this action on this resource, under these circumstances?"""

    principal: Uid
    action: str
    resource: Uid
    context: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and what it rests on.

    Args:
        permitted: True only if a permit applied, no forbid did, and every policy could be evaluated.
        policies: the `@id`s that determined it, sorted: the permits of a permit, the forbids of a denial, the
            policies that failed when `limited_by` is "error".
        set_hash: the hash of the policy set that decided.
        limited_by: what stood in the way. "ceiling" only if every forbid that applied is marked so, for then
            a wider ceiling alone would have changed the answer.
    """

    permitted: bool
    policies: tuple[str, ...]
    set_hash: str
    limited_by: LimitedBy


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of a set.

    Args:
        id: its `@id`.
        file: the file that it stands in, `line` where it begins (1 is the first).
        effect: "permit" or "forbid".
        action: the actions that it can decide, sorted; all actions if its scope names none.
        annotations: all of them, `id` included.
    """

    id: str
    file: str
    line: int
    effect: Effect
    action: tuple[str, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What Cedar said, before it is made a decision.

    Args:
        permitted: Cedar's answer; it counts only if `clean`.
        reasons: the policies that determined it, sorted.
        failures: the policies that could not be evaluated ("" where unknown), with Cedar's words.
        problem: why the request could not be evaluated at all, or "".
    """

    permitted: bool
    reasons: tuple[str, ...] = ()
    failures: tuple[tuple[str, str], ...] = ()
    problem: str = ""

    @property
    def clean(self) -> bool:
        """Whether everything was evaluated."""
        return not self.failures and not self.problem


@dataclass(frozen=True, slots=True)
class Unmet:
    """A condition of a policy that a request does not meet.

    Args:
        condition: its text.
        found: the values that it looked at, by the words it uses for them; None for what is not there.
    """

    condition: str
    found: tuple[tuple[str, object], ...]


def mentioned(request: Request) -> Iterator[Uid]:
    """Every entity that a request names: its principal, its resource, and those its context points to."""
    yield request.principal
    yield request.resource
    for value in request.context.values():
        if isinstance(value, EntityRef):
            yield value.uid


def reference(uid: Uid) -> dict[str, str]:
    """A uid as Cedar's JSON writes it."""
    return {"type": uid[0], "id": uid[1]}


def context_json(context: Mapping[str, object]) -> str:
    """The context as Cedar's JSON.

    Raises:
        Malformed: a value of a kind that does not go through.
    """
    return _text(context_members(context))


def context_members(context: Mapping[str, object]) -> dict[str, object]:
    """The context as Cedar's JSON, before it is text.

    Raises:
        Malformed: a value of a kind that does not go through.
    """
    return {name: _value(value, name) for name, value in context.items()}


def entities_json(entities: Sequence[Entity]) -> str:
    """The entities as Cedar's JSON.

    Raises:
        Malformed: a value of a kind that does not go through.
    """
    return _text(entities_members(entities))


def entities_members(entities: Sequence[Entity]) -> list[dict[str, object]]:
    """The entities as Cedar's JSON, before it is text.

    Raises:
        Malformed: a value of a kind that does not go through.
    """
    return [
        {
            "uid": reference(entity.uid),
            "attrs": {name: _value(value, name) for name, value in entity.attrs.items()},
            "parents": [reference(parent) for parent in entity.parents],
            "tags": {name: _value(value, name) for name, value in (entity.tags or {}).items()},
        }
        for entity in entities
    ]


def _value(value: object, name: str) -> object:
    kind = type(value)
    if kind is str or kind is bool or kind is int:
        return value
    if isinstance(value, EntityRef):
        return {"__entity": reference(value.uid)}
    if isinstance(value, list | tuple) and all(type(item) is str for item in value):
        return value
    raise Malformed(f"{name!r} is a {kind.__name__}; give a text, a whole number, a truth value or a list of texts.")


def _text(value: object) -> str:
    try:
        return orjson.dumps(value).decode()
    except (TypeError, ValueError) as error:
        raise Malformed(f"A value for the policy engine does not fit JSON: {error}.") from error
