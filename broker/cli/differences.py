"""What a change changes, for people: texts line by line, descriptions member by member."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from broker.cli.output import say

_STYLES = {"+": "green", "-": "red", "@": "cyan"}
_AROUND = 3
_ITEMS = 10
"""Items of one list that are shown, unless everything is."""
_THINGS = 50
"""Things that are shown, unless everything is."""


def show(differences: list[dict[str, Any]], reach: Mapping[str, Any] | None, *, whole: bool = False) -> None:
    """Prints every difference under its name, and what they come to.

    Args:
        differences: as the API gives them.
        reach: what the API says they come to; None where it cannot tell.
        whole: leave nothing out; else long lists end with a count. Texts of policies are never cut.
    """
    for difference in differences if whole else differences[:_THINGS]:
        before, after = difference["before"], difference["after"]
        say(f"{difference['section']}/{difference['name']}: {_fate(before, after)}", "bold")
        for line in lines(before, after, most=None if whole else _ITEMS):
            say(f"  {line}", _STYLES.get(line[:1], ""))
    if not whole and len(differences) > _THINGS:
        say(f"… and {len(differences) - _THINGS} more; --json shows all of them", "bold")
    if differences and reach is not None:
        _sum(reach, most=None if whole else _ITEMS)


def _sum(reach: Mapping[str, Any], most: int | None) -> None:
    counts = f"{reach['new']} new, {reach['changed']} changed, {reach['removed']} removed"
    if not reach["widens"]:
        say(f"{counts}; narrows only", "bold")
    else:
        shown = reach["widens"][:most]
        more = f"; … and {len(reach['widens']) - len(shown)} more" if len(shown) < len(reach["widens"]) else ""
        say(f"{counts}; widens access: yes ({'; '.join(shown)}{more})", "bold")
    if reach["cases"]:
        say(f"{reach['cases']} cases ran on the policies to come, and passed: {', '.join(reach['case_files'])}")


def lines(before: object, after: object, *, most: int | None = None) -> Iterator[str]:
    """A difference as lines that begin with `+`, `-` or a space.

    Args:
        before: a text, a description as a mapping, or None where there was nothing.
        after: the same.
        most: how many items of one list are shown; all of them if None.
    """
    if isinstance(before, str) or isinstance(after, str):
        yield from _text_lines(str(before or ""), str(after or ""))
    else:
        old, new = (value if isinstance(value, Mapping) else {} for value in (before, after))
        yield from _members(old, new, most)


def _fate(before: object, after: object) -> str:
    if before is None:
        return "new"
    return "removed" if after is None else "changed"


def _text_lines(before: str, after: str) -> Iterator[str]:
    found = difflib.unified_diff(before.splitlines(), after.splitlines(), n=_AROUND, lineterm="")
    for number, line in enumerate(found):
        if number >= 2:  # the first two name files
            yield line


def _members(before: Mapping[str, Any], after: Mapping[str, Any], most: int | None) -> Iterator[str]:
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old == new or (not old and not new):
            continue
        if isinstance(old, list) and isinstance(new, list) and sorted(map(str, old)) != sorted(map(str, new)):
            yield from _items("-", name, [item for item in old if item not in new], most)
            yield from _items("+", name, [item for item in new if item not in old], most)
            continue
        if old or name in before:
            yield f"- {name}: {_value(old, most)}"
        if new or name in after:
            yield f"+ {name}: {_value(new, most)}"


def _items(sign: str, name: str, items: list[Any], most: int | None) -> Iterator[str]:
    shown = items[:most]
    yield from (f"{sign} {name}: {_value(item, most)}" for item in shown)
    if len(shown) < len(items):
        yield f"{sign} {name}: … and {len(items) - len(shown)} more"


def _value(value: object, most: int | None) -> str:
    if isinstance(value, list) and most is not None and len(value) > most:
        return f"{orjson.dumps(value[:most]).decode()[:-1]}, … and {len(value) - most} more]"
    return value if isinstance(value, str) and value else orjson.dumps(value).decode()
