"""The schemas of records: one for every kind, closed, and what does not fit is named."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from broker.audit import schema
from broker.audit.events import ABANDONED, Kind
from broker.formats import record


def _example(type: schema.Type) -> Any:
    """A value that fits, with every member that there can be."""
    if "const" in type or "enum" in type:
        return type.get("const", type.get("enum", [None])[0])
    name = type["type"] if isinstance(type["type"], str) else type["type"][0]
    if name == "object":
        return {member: _example(inner) for member, inner in type.get("properties", {}).items()}
    if name == "array":
        return [_example(type["items"])]
    return {"string": "text", "integer": 7, "boolean": True}[name]


def _places(type: schema.Type, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], schema.Type]]:
    """Every place in a schema, with its type."""
    yield path, type
    for name, inner in type.get("properties", {}).items():
        yield from _places(inner, (*path, name))
    if "items" in type:
        yield from _places(type["items"], (*path, 0))


def _put(whole: Any, path: tuple[str | int, ...], value: Any) -> Any:
    changed = copy.deepcopy(whole)
    if not path:
        return value
    place = changed
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_closed_schema(kind: Kind) -> None:
    """Its groups are those of a record, when and in which request always among them; nothing else may stand there."""
    document = schema.document(kind)
    assert set(document["properties"]) <= set(record.GROUPS)
    assert {"id", "at_ms"} <= set(document["properties"]["request"]["required"])
    assert "request" in document["required"]
    assert (document["title"], document["version"]) == (kind, 1)
    for path, type in _places(document):
        if "properties" in type:
            assert type["additionalProperties"] is False, path


@pytest.mark.parametrize("kind", Kind)
def test_what_does_not_fit_is_named(kind: Kind) -> None:
    """Any member that is missing, of another type, or not in the schema, at any depth; and nothing when all fits."""
    document = schema.document(kind)
    whole = _example(document)
    assert schema.misfits(kind, whole) == []
    for path, type in _places(document):
        where = ".".join(map(str, (kind, *path)))
        if path:
            wrong = schema.misfits(kind, _put(whole, path, 1.5))
            assert [text.partition(":")[0] for text in wrong] == [where]
        if "properties" not in type:
            continue
        inner = _example(type)
        more = schema.misfits(kind, _put(whole, path, {**inner, "unheard": 1}))
        assert more == [f"{where}.unheard is not in the schema"]
        for name in inner:
            less = {member: value for member, value in inner.items() if member != name}
            expected = [f"{where}.{name} is missing"] if name in type["required"] else []
            assert schema.misfits(kind, _put(whole, path, less)) == expected


def test_a_truth_is_no_number() -> None:
    """Python counts True among the integers; JSON does not."""
    whole = _example(schema.document(Kind.BROKER_STOPPED))
    assert schema.misfits(Kind.BROKER_STOPPED, _put(whole, ("request", "at_ms"), True)) != []


@pytest.mark.parametrize("kind", ABANDONED)
def test_what_closes_a_record_repeats_it(kind: Kind) -> None:
    """The closing record holds the groups of what it closes, and why: each of them fits the end's schema."""
    whole = _example(schema.document(kind)) | {"remedy": {"closes": 3, "why": "text"}}
    assert schema.misfits(ABANDONED[kind], whole) == []


def test_the_digest_is_that_of_all_schemas() -> None:
    """It is stable within a version, and 64 hexadecimal digits."""
    assert schema.digest() == schema.digest()
    assert len(bytes.fromhex(schema.digest())) == 32
