"""What policies look at in evidence, read off their text: claims that no rule mentions cannot change an answer.

Evidence differs in every presentation (its id, its times), and what the rules ask of it hardly ever does. Narrowed to
what they read, equal evidence has one answer, which may be kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from broker.policy.request import Entity

_SAME = "evidence"
"""The id of narrowed evidence: no policy that reads ids is narrowed for."""

_TAGS = ("hasTag", "getTag")
_PARTS = (*_TAGS, ".", "has", "is")


@dataclass(frozen=True, slots=True)
class Reads:
    """The tags that the policies of an action look up, by literal names: the principal's, and those of its lists."""

    tags: frozenset[str]
    lists: frozenset[str]

    def narrowed(self, principal: Entity, lists: Entity) -> tuple[Entity, Entity]:
        """Evidence and its lists with what the policies read, under an id that all evidence shares."""
        return _narrowed(principal, self.tags), _narrowed(lists, self.lists)


def reads(policies: Iterable[Mapping[str, Any]]) -> Reads | None:
    """What policies read of their principal, and of the entity `context.lists`.

    Args:
        policies: each in Cedar's JSON form.

    Returns:
        None where the text does not tell: a tag's name is computed, or the evidence itself is compared, so that its id
        counts. Fails closed: then nothing may be left out.
    """
    tags: set[str] = set()
    lists: set[str] = set()
    for policy in policies:
        scope = policy["principal"]
        if scope["op"] not in ("All", "is") or "in" in scope:
            return None
        for of, name in _uses([condition["body"] for condition in policy["conditions"]]):
            if name is None:
                return None
            (tags if of == "principal" else lists).add(name)
    return Reads(frozenset(tags), frozenset(lists))


def _uses(expression: object) -> Iterator[tuple[str, str | None]]:
    """Every tag that an expression looks up, as (whose, name); a name of None for a use that cannot be told."""
    if isinstance(expression, list):
        for item in expression:
            yield from _uses(item)
        return
    if not isinstance(expression, Mapping):
        return
    of = _subject(expression)
    if of:
        yield of, None  # on its own: passed on, or compared
        return
    for operator, operands in expression.items():
        of = _subject(operands.get("left")) if operator in _PARTS and isinstance(operands, Mapping) else ""
        if of == "context" or (of and operator in (".", "has", "is")):
            continue  # attributes are kept whole
        if of:
            name = operands["right"].get("Value")
            yield of, name if isinstance(name, str) else None
        else:
            yield from _uses(operands)


def _subject(expression: object) -> str:
    """Which of the things that matter an expression is: the principal, its lists, the context, or ""."""
    if expression == {"Var": "principal"}:
        return "principal"
    if expression == {"Var": "context"}:
        return "context"
    return "lists" if expression == {".": {"left": {"Var": "context"}, "attr": "lists"}} else ""


def _narrowed(entity: Entity, names: frozenset[str]) -> Entity:
    tags = {name: value for name, value in (entity.tags or {}).items() if name in names}
    return Entity((entity.uid[0], _SAME), entity.attrs, entity.parents, tags)
