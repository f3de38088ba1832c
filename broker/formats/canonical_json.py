"""JSON with one spelling for each value, and a reader that takes no second meaning.

Source: RFC 8785 (JCS), RFC 7493 (I-JSON), RFC 8259.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import TypeAlias

import orjson

from broker.errors import Malformed

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 7493 §2.2)."""

_MAX_WRITTEN_DEPTH = 64
_ATOMS = frozenset({str, int, bool, type(None)})
_OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{\]}]')


def canonical(value: object) -> bytes:
    """Writes a value in its RFC 8785 form.

    Args:
        value: None, bool, int, float, str, or lists, tuples and mappings of them, at most 64 deep.

    Raises:
        Malformed: something JSON cannot say exactly: NaN, an infinity, an integer beyond 2**53 - 1, a lone
            surrogate, a member name that is not text, another type, or too deep.
    """
    if _is_plain(value, _MAX_WRITTEN_DEPTH):
        # Same bytes as RFC 8785 here: its string escapes and ours agree, integers are exact or refused, and
        # names in ASCII sort the same by UTF-8 bytes as by UTF-16 units. Names beyond ASCII and floats do
        # not.
        try:
            return orjson.dumps(value, option=_OPTIONS)
        except TypeError as error:
            raise Malformed(f"The value cannot be written as canonical JSON: {error}.") from error
    pieces: list[bytes] = []
    _write(value, pieces, _MAX_WRITTEN_DEPTH)
    return b"".join(pieces)


def parse(data: bytes, *, max_bytes: int = 65536, max_depth: int = 32, max_containers: int = 100_000) -> JsonValue:
    """Reads JSON that means one thing only. Fails closed.

    Args:
        data: UTF-8 without a byte order mark.
        max_bytes: longest text that is looked at.
        max_depth: deepest nesting of arrays and objects.
        max_containers: most arrays and objects, and a twentieth of the most commas, counted in texts too: what a
            short text of many values costs to read bears no relation to its length.

    Returns:
        The value; integers stay exact whatever their size.

    Raises:
        Malformed: not JSON, a member name twice in one object at any depth (RFC 8259 §4 leaves that open,
            attackers use it), NaN or an infinity, invalid UTF-8, a lone surrogate, too long or too deep.
    """
    if len(data) > max_bytes:
        raise Malformed(f"The JSON text is longer than {max_bytes} bytes.")
    containers = data.count(b"[") + data.count(b"{")
    if containers > max_containers or data.count(b",") > 20 * max_containers:
        raise Malformed("The JSON text holds too many values.")
    try:
        value: JsonValue = orjson.loads(data)
    except ValueError as error:
        raise Malformed("The text is not valid JSON in UTF-8.") from error
    if containers > max_depth:
        _check_depth(data, max_depth)
    # What a dict is written as cannot name a member twice, so neither can a text equal to it.
    if orjson.dumps(value) == data:
        return value
    try:
        exact: JsonValue = json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as error:
        raise Malformed("The JSON text holds a number that cannot be read.") from error
    return exact


def _is_plain(value: object, depth: int) -> bool:
    """Whether orjson writes the value byte for byte as RFC 8785 asks."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        if kind is not dict:
            return False
        for name, member in value.items():
            if type(name) is not str or not name.isascii():
                return False
            if type(member) not in _ATOMS and not _is_plain(member, depth - 1):
                return False
        return True
    if isinstance(value, (list, tuple)) and (kind is list or kind is tuple):
        return all(type(item) in _ATOMS or _is_plain(item, depth - 1) for item in value)
    return False


def _write(value: object, pieces: list[bytes], depth: int) -> None:
    if value is None or value is True or value is False:
        pieces.append(b"null" if value is None else b"true" if value else b"false")
    elif isinstance(value, str):
        pieces.append(_text(value))
    elif type(value) is int:
        if not -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
            raise Malformed("An integer beyond 2**53 - 1 cannot be written as canonical JSON: write it as text.")
        pieces.append(b"%d" % value)
    elif type(value) is float:
        pieces.append(_number(value))
    elif depth == 0:
        raise Malformed(f"The value is nested deeper than {_MAX_WRITTEN_DEPTH}.")
    elif isinstance(value, Mapping):
        _write_object(value, pieces, depth)
    elif isinstance(value, (list, tuple)):
        pieces.append(b"[")
        for position, item in enumerate(value):
            if position:
                pieces.append(b",")
            _write(item, pieces, depth - 1)
        pieces.append(b"]")
    else:
        raise Malformed(f"A {type(value).__name__} cannot be written as canonical JSON.")


def _write_object(value: Mapping[object, object], pieces: list[bytes], depth: int) -> None:
    """An object, its members ordered by the UTF-16 units of their names (RFC 8785 §3.2.3)."""
    ordered: list[tuple[bytes, str, object]] = []
    for name, member in value.items():
        if not isinstance(name, str):
            raise Malformed("A member name in canonical JSON must be text.")
        ordered.append((name.encode("utf-16-be", "surrogatepass"), name, member))
    ordered.sort(key=lambda item: item[0])
    pieces.append(b"{")
    for position, (_, name, member) in enumerate(ordered):
        if position:
            pieces.append(b",")
        pieces.append(_text(name))
        pieces.append(b":")
        _write(member, pieces, depth - 1)
    pieces.append(b"}")


def _text(value: str) -> bytes:
    try:
        return orjson.dumps(str.__str__(value))
    except TypeError as error:
        raise Malformed("Text with a lone surrogate cannot be written as canonical JSON.") from error


def _number(value: float) -> bytes:
    """A double as ECMAScript writes it (RFC 8785 §3.2.2.3); Python's repr finds the same shortest digits."""
    if not math.isfinite(value):
        raise Malformed("NaN and infinities cannot be written as JSON.")
    if value == 0:
        return b"0"
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    padded = whole + fraction
    digits = padded.lstrip("0")
    point = len(whole) + int(exponent or 0) - (len(padded) - len(digits))  # value = 0.digits * 10**point
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        tail = f".{digits[1:]}" if count > 1 else ""
        text = f"{digits[0]}{tail}e{point - 1:+d}"
    return (text if value > 0 else "-" + text).encode("ascii")


def _check_depth(data: bytes, max_depth: int) -> None:
    """Counts brackets outside strings; only called on text that is valid JSON."""
    depth = 0
    for match in _TOKEN.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > max_depth:
                raise Malformed(f"The JSON text is nested deeper than {max_depth}.")
        elif first in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Malformed("The JSON text names a member twice in one object.")
    return members


def _no_constant(name: str) -> JsonValue:
    raise Malformed(f"{name} is not JSON.")
