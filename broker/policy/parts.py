"""A policy taken apart into the things that must hold for it to apply, so that a refusal can be explained.

Works on Cedar's JSON form of a policy. A part is itself such a policy: a permit with one scope constraint or
one condition and nothing else. Whether it holds is for the engine to ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from broker.policy.request import Entity, Request, Uid

Json = dict[str, Any]
"""A policy, or a piece of one, in Cedar's JSON form."""

_ANY: Json = {"op": "All"}


def parts(policy: Json) -> Iterator[Json]:
    """Each thing that must hold, in the order of the text. The action is left out: its slice settles it."""
    for word in ("principal", "resource"):
        if policy[word] != _ANY:
            yield _part(**{word: policy[word]})
    for condition in policy["conditions"]:
        # when { a && b }: both must hold. unless { a || b }: neither may.
        joined_by = "&&" if condition["kind"] == "when" else "||"
        for operand in _operands(condition["body"], joined_by):
            yield _part(conditions=[{"kind": condition["kind"], "body": operand}])


def scope_text(part: Json) -> str:
    """The text of a part that is a scope constraint, `principal is Agent`; "" for a condition."""
    for word in ("principal", "resource"):
        scope = part[word]
        if scope == _ANY:
            continue
        text = f"{word} {scope['op']}"
        if "entity_type" in scope:
            text += f" {scope['entity_type']}"
        if "in" in scope:
            text += " in"
        named = scope.get("entity") or scope.get("in", {}).get("entity")
        return f'{text} {named["type"]}::"{named["id"]}"' if named else text
    return ""


def condition_text(printed: str) -> str:
    """The text of a part that is a condition, from the whole part as Cedar prints it."""
    inside = re.search(r"\b(when|unless) \{ (.*) \};\s*$", printed, re.DOTALL)
    if inside is None:
        return printed
    # Cedar prints every operand in brackets: (principal.status) == "active".
    plain = re.sub(r"(?<![\w\"])\(([a-z]+(?:\.\w+)+)\)", r"\1", inside[2])
    return plain if inside[1] == "when" else f"not ({plain})"


def values_read(part: Json, request: Request, entities: Mapping[Uid, Entity]) -> tuple[tuple[str, object], ...]:
    """What a part reads (attributes, tags, context), with this request's values; None where there is none."""
    found: dict[str, object] = {}
    principal, resource = entities[request.principal], entities[request.resource]
    fields: dict[str, Mapping[str, object]] = {
        "principal": principal.attrs,
        "resource": resource.attrs,
        "context": request.context,
    }
    for operator, operands in _operations(part["conditions"]):
        if operator == "." and (word := operands["left"].get("Var")) in fields:
            found[f"{word}.{operands['attr']}"] = fields[word].get(operands["attr"])
        elif operator in {"hasTag", "getTag"} and operands["left"] == {"Var": "principal"}:
            name = operands["right"].get("Value")
            found[f"the principal's {name}"] = (principal.tags or {}).get(name)
    return tuple(sorted(found.items()))


def _part(**given: object) -> Json:
    empty: Json = {"effect": "permit", "principal": _ANY, "action": _ANY, "resource": _ANY, "conditions": []}
    return empty | given


def _operands(expression: Json, operator: str) -> Iterator[Json]:
    if operator in expression:
        yield from _operands(expression[operator]["left"], operator)
        yield from _operands(expression[operator]["right"], operator)
    else:
        yield expression


def _operations(value: object) -> Iterator[tuple[str, Json]]:
    """Every operation with operands that are named, at any depth."""
    if isinstance(value, dict):
        for operator, operands in value.items():
            if isinstance(operands, dict) and "left" in operands:
                yield operator, operands
            yield from _operations(operands)
    elif isinstance(value, list):
        for item in value:
            yield from _operations(item)
