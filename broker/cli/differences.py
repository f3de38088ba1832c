"""What a change changes, for people: texts line by line, descriptions member by member."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from broker.cli.output import say

_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_AROUND = 2


def show(differences: list[dict[str, Any]]) -> None:
    """Prints every difference under its name."""
    for difference in differences:
        before, after = difference["before"], difference["after"]
        say(f"{difference['section']}/{difference['name']}: {_fate(before, after)}", "bold")
        for line in lines(before, after):
            say(f"  {line}", _STYLES.get(line[:1], ""))


def lines(before: object, after: object) -> Iterator[str]:
    """A difference as lines that begin with `+`, `-` or a space.

    Args:
        before: a text, a description as a mapping, or None where there was nothing.
        after: the same.
    """
    if isinstance(before, str) or isinstance(after, str):
        yield from _text_lines(str(before or ""), str(after or ""))
    else:
        yield from _members(before if isinstance(before, Mapping) else {}, after if isinstance(after, Mapping) else {})


def _fate(before: object, after: object) -> str:
    if before is None:
        return "new"
    return "removed" if after is None else "changed"


def _text_lines(before: str, after: str) -> Iterator[str]:
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), n=_AROUND, lineterm="")
    for number, line in enumerate(found):
        if number >= 2:  # the first two name files
            yield line


def _members(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old == new or (not old and not new):
            continue
        if isinstance(old, list) and isinstance(new, list) and sorted(map(str, old)) != sorted(map(str, new)):
            yield from (f"- {name}: {_value(item)}" for item in old if item not in new)
            yield from (f"+ {name}: {_value(item)}" for item in new if item not in old)
            continue
        if old or name in before:
            yield f"- {name}: {_value(old)}"
        if new or name in after:
            yield f"+ {name}: {_value(new)}"


def _value(value: object) -> str:
    return value if isinstance(value, str) and value else orjson.dumps(value).decode()
