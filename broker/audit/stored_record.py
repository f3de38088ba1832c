"""What a stored record says, read in one place: whoever alters one in the database hides no other, and is told of.

Groups are stored as `{"who": ["<salt, 32 hexadecimal digits>", "<a JSON object, or nothing>"], ...}`. One that was
altered into something else counts as one that is not there: whoever shows it says that it is missing, unless it was
erased. What can be read may still be false: that a group opens its commitment is for verifiers to see.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from broker.formats.record import GROUPS

MAX_DEPTH = 64
"""Objects and lists within each other, as deep as a group is written (`broker.formats.canonical_json`)."""

_LAST_MS = 253_402_300_799_000
"""The last second that calendars have, 9999-12-31 23:59:59."""

_SALT = re.compile(r"[0-9a-f]{32}", re.ASCII)


def readable_groups(stored: bytes) -> dict[str, tuple[str, str]]:
    """The groups that can be read: salt in hexadecimal, and content, by name."""
    found = _parsed(stored) or {}
    return {name: (pair[0], pair[1]) for name, pair in found.items() if name in GROUPS and _is_group(pair)}


def all_readable(stored: bytes) -> bool:
    """Whether there is nothing but groups that can be read, and they are all that is there."""
    found = _parsed(stored)
    return found is not None and found.keys() == readable_groups(stored).keys()


def at_ms(at: object) -> int:
    """When a record was made, in milliseconds: a moment that calendars have, whatever the column was altered into."""
    if not isinstance(at, int | float) or at != at:
        return 0
    return int(min(max(at * 1000, 0), _LAST_MS))


def _parsed(stored: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(stored)
    except (ValueError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def _is_group(pair: object) -> bool:
    if not isinstance(pair, list) or [type(each) for each in pair] != [str, str] or not _SALT.fullmatch(pair[0]):
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
