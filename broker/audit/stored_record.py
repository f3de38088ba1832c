"""What a stored record says, read in one place: whoever alters one in the database hides no other, and is told of.

Groups are stored as `{"who": ["<salt, 32 hexadecimal digits>", "<a JSON object, or nothing>"], ...}`. One that was
altered into something else counts as one that is not there: whoever shows it says that it is missing, unless it was
erased. What can be read may still be false: that a group opens its commitment is for verifiers to see.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from broker.entropy import system_entropy
from broker.formats.record import GROUPS

MAX_DEPTH = 64
"""Objects and lists within each other, as deep as a group is written (`broker.formats.canonical_json`)."""

_LAST_MS = 253_402_300_799_000
"""The last second that calendars have, 9999-12-31 23:59:59."""

_SALT = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NAMES = frozenset(GROUPS)

_BETWEEN = system_entropy(16).hex()
"""Stands between contents that are read at once. Whoever writes the database does not know it."""


def readable_groups(stored: bytes) -> dict[str, tuple[str, str]]:
    """The groups that can be read: salt in hexadecimal, and content, by name."""
    return _read(stored)[0]


def all_readable(stored: bytes) -> dict[str, tuple[str, str]] | None:
    """The groups, if there is nothing but groups that can be read; else None."""
    groups, whole = _read(stored)
    return groups if whole else None


def at_ms(at: object) -> int:
    """When a record was made, in milliseconds: a moment that calendars have, whatever the column was altered into."""
    if not isinstance(at, int | float) or at != at:
        return 0
    return int(min(max(at * 1000, 0), _LAST_MS))


def _read(stored: bytes) -> tuple[dict[str, tuple[str, str]], bool]:
    """The groups that can be read, and whether they are all that is there."""
    try:
        found = orjson.loads(stored)
    except (ValueError, TypeError):
        return {}, False
    if not isinstance(found, dict):
        return {}, False
    groups = found
    if not _are_groups(found):
        groups = {name: pair for name, pair in found.items() if name in _NAMES and _is_group(pair)}
    return {name: (salt, text) for name, (salt, text) in groups.items()}, len(groups) == len(found)


def _are_groups(found: dict[str, Any]) -> bool:
    """Whether `_is_group` holds for each, for less: of groups that nobody altered, all contents are read at once."""
    if not found.keys() <= _NAMES:
        return False
    texts = []
    for pair in found.values():
        if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            return False
        if not _SALT.fullmatch(pair[0]):
            return False
        if pair[1]:
            texts.append(pair[1])
    together = f',"{_BETWEEN}",'.join(texts)
    try:
        said = orjson.loads(f"[{together}]")
    except ValueError:
        return False
    return (
        len(said) == max(2 * len(texts) - 1, 0)
        and all(each == _BETWEEN for each in said[1::2])
        and all(type(each) is dict for each in said[::2])
        and together.count("{") + together.count("[") <= MAX_DEPTH
    )


def _is_group(pair: object) -> bool:
    if type(pair) is not list or [type(each) for each in pair] != [str, str] or not _SALT.fullmatch(pair[0]):
        return False
    text: str = pair[1]
    if not text:
        return True
    try:
        return isinstance(said := orjson.loads(text), dict) and _is_flat(text, said)
    except ValueError:
        return False


def _is_flat(text: str, said: object) -> bool:
    return text.count("{") + text.count("[") <= MAX_DEPTH or _fits(said, MAX_DEPTH)


def _fits(value: object, left: int) -> bool:
    if isinstance(value, dict):
        return left > 0 and all(_fits(each, left - 1) for each in value.values())
    return not isinstance(value, list) or (left > 0 and all(_fits(each, left - 1) for each in value))
