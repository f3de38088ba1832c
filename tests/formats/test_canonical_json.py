"""Canonical JSON held to RFC 8785 by others' vectors and by a slow writer of our own; parsing that is strict."""

from __future__ import annotations

import json
import math
import struct
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from enum import StrEnum
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.errors import Malformed
from broker.formats.canonical_json import JsonValue, canonical, parse
from tests.vectors import vectors


def slow_text(text: str) -> str:
    """RFC 8785 §3.2.2.2, one character at a time."""
    short = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
    return '"' + "".join(short.get(c, f"\\u{ord(c):04x}" if c < " " else c) for c in text) + '"'


def slow_number(value: float) -> str:
    """ECMAScript's Number::toString, by the shortest decimal that reads back as the same double."""
    if value == 0:
        return "0"
    exact = Decimal(abs(value))
    same: list[Decimal] = []
    kept = 0
    while not same:
        kept += 1
        around = [Context(kept, rounding).plus(exact) for rounding in (ROUND_FLOOR, ROUND_CEILING)]
        same = [decimal for decimal in around if float(decimal) == abs(value)]
    _, digits, exponent = min(same, key=lambda decimal: abs(decimal - exact)).normalize().as_tuple()
    k, n = len(digits), len(digits) + int(exponent)
    s = "".join(map(str, digits))
    if k <= n <= 21:
        body = s + "0" * (n - k)
    elif 0 < n <= 21:
        body = s[:n] + "." + s[n:]
    elif -6 < n <= 0:
        body = "0." + "0" * -n + s
    else:
        body = s[0] + ("." + s[1:] if k > 1 else "") + "e" + ("+" if n > 0 else "-") + str(abs(n - 1))
    return ("-" if value < 0 else "") + body


def units(name: str) -> list[int]:
    """A name's UTF-16 code units (RFC 8785 §3.2.3)."""
    data = name.encode("utf-16-be")
    return [data[at] << 8 | data[at + 1] for at in range(0, len(data), 2)]


def slow(value: object) -> str:
    """RFC 8785 without any of the code under test."""
    if isinstance(value, str):
        return slow_text(value)
    if isinstance(value, float):
        return slow_number(value)
    if isinstance(value, dict):
        names = sorted(value, key=units)
        return "{" + ",".join(f"{slow_text(name)}:{slow(value[name])}" for name in names) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(slow, value)) + "]"
    return json.dumps(value)


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | FLOATS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
@example({"\U0001f600": 1, "\ue000": 2, "é": 3})
def test_canonical_is_rfc_8785(value: object) -> None:
    """Both ways of writing give what a slow reading of the RFC gives, for any value."""
    assert canonical(value) == slow(value).encode()


@given(VALUES)
def test_canonical_reads_back_as_the_same_value(value: object) -> None:
    """The canonical form loses nothing, numbers being doubles (RFC 8785 §3.1), and the strict reader takes it."""
    data = canonical(value)
    assert json.loads(data) == parse(data)
    assert json.loads(data, parse_int=float) == json.loads(json.dumps(value), parse_int=float)


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1))
@example(0x444B1AE4D6E2EF50)
def test_numbers_are_written_as_ecmascript_writes_them(bits: int) -> None:
    """Any double by its bits, subnormals and the edges of exponents included."""
    (value,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    if math.isfinite(value):
        assert canonical(value) == slow_number(value).encode()


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0x0000000000000000, "0"),
        (0x8000000000000000, "0"),
        (0x0000000000000001, "5e-324"),
        (0x8000000000000001, "-5e-324"),
        (0x7FEFFFFFFFFFFFFF, "1.7976931348623157e+308"),
        (0x4340000000000000, "9007199254740992"),
        (0x4430000000000000, "295147905179352830000"),
        (0x44B52D02C7E14AF5, "9.999999999999997e+22"),
        (0x44B52D02C7E14AF6, "1e+23"),
        (0x44B52D02C7E14AF7, "1.0000000000000001e+23"),
        (0x444B1AE4D6E2EF4E, "999999999999999700000"),
        (0x444B1AE4D6E2EF4F, "999999999999999900000"),
        (0x444B1AE4D6E2EF50, "1e+21"),
        (0x3EB0C6F7A0B5ED8C, "9.999999999999997e-7"),
        (0x3EB0C6F7A0B5ED8D, "0.000001"),
        (0x41B3DE4355555554, "333333333.33333325"),
        (0xBECBF647612F3696, "-0.0000033333333333333333"),
        (0x43143FF3C1CB0959, "1424953923781206.2"),
    ],
)
def test_the_numbers_of_rfc_8785_appendix_b(bits: int, text: str) -> None:
    """The RFC's own table of difficult doubles."""
    assert canonical(struct.unpack(">d", bits.to_bytes(8, "big"))[0]) == text.encode()


@pytest.mark.parametrize("name", ["arrays", "french", "structures", "unicode", "values", "weird"])
def test_the_vectors_of_the_rfcs_author(name: str) -> None:
    """What the RFC's author's own inputs must come to, byte for byte."""
    folder = vectors("jcs")
    value = parse((folder / "input" / f"{name}.json").read_bytes())
    assert canonical(value) == (folder / "output" / f"{name}.json").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), 2**53, -(2**53), {"é": 2**53}, {"a": [2**64]}, "\ud800",
        {"\udfff": 1},
        {"é": "\ud800"}, {1: 2}, {"a": {None: 1}}, b"bytes", {"a": {1, 2}}, 1 + 2j, object(), [float("nan")],
    ],
)  # fmt: skip
def test_what_json_cannot_say_exactly_is_refused(value: object) -> None:
    """NaN, infinities, integers beyond 2**53 - 1, lone surrogates, other names and types."""
    with pytest.raises(Malformed):
        canonical(value)


@pytest.mark.parametrize("leaf", [1, 1.5])
def test_endless_nesting_is_refused_without_a_recursion_error(leaf: float) -> None:
    """A value nested deeper than 64 is refused on either way of writing."""
    value: object = leaf
    for _ in range(5000):
        value = [value]
    with pytest.raises(Malformed):
        canonical(value)


def test_an_enumeration_of_texts_is_text() -> None:
    """Members of a StrEnum are written as their text, as value and as name."""

    class Word(StrEnum):
        """Two words."""

        A = "a"
        B = "b"

    assert canonical({Word.B: Word.A, "é": 1}) == '{"b":"a","é":1}'.encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}', '{"a":1,"a":2}', '{"b":{"a":1,"a":2}}', '[[{"a":1},{"a":1,"b":2,"a":3}]]',
        '{"a":1,"\\u0061":2}',
        '{ "a": 1, "a": 2 }', '{"":0,"":0}',
    ],
)  # fmt: skip
def test_a_member_named_twice_is_refused_at_any_depth(text: str) -> None:
    """However it is spelled or nested."""
    with pytest.raises(Malformed, match="twice"):
        parse(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"\xef\xbb\xbf1", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"',
        b"",
        b"{", b"[1,]", b"{'a':1}", b"01", b"+1", b"1.", b'"\x01"', b"nul", b"1 2", b"/**/1", b"\x00",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(data: bytes) -> None:
    """NaN, infinities, invalid UTF-8, lone surrogates, byte order marks and relaxed syntax."""
    with pytest.raises(Malformed):
        parse(data)


@pytest.mark.parametrize(("depth", "taken"), [(31, True), (32, True), (33, False), (900, False), (100_000, False)])
def test_depth_is_bounded(depth: int, taken: bool) -> None:
    """Exactly 32 levels pass; far more are refused without a RecursionError."""
    data = b"[" * depth + b"]" * depth
    if taken:
        assert parse(data, max_bytes=10**6) is not None
        return
    with pytest.raises(Malformed):
        parse(data, max_bytes=10**6)


def test_depth_counts_no_brackets_in_text_and_no_neighbours() -> None:
    """Brackets inside strings and side by side do not nest."""
    wide: JsonValue = [[], {}, ["[[[[" * 40, '\\"[{'], {"[[": "]]"}] * 20
    data = json.dumps(wide).encode()
    assert parse(data, max_depth=2) == wide
    with pytest.raises(Malformed):
        parse(data, max_depth=1)


def test_a_deep_value_cannot_hide_behind_a_second_member() -> None:
    """The first of two members of one name is bounded like the second, which alone would survive a lax reader."""
    with pytest.raises(Malformed):
        parse(b'{"a":' + b"[" * 500 + b"]" * 500 + b',"a":1}')


@pytest.mark.parametrize(("size", "taken"), [(99, True), (100, True), (101, False)])
def test_length_is_bounded(size: int, taken: bool) -> None:
    """A text of exactly `max_bytes` passes, one byte more does not."""
    data = b'"' + b"a" * (size - 2) + b'"'
    if taken:
        assert parse(data, max_bytes=100) == "a" * (size - 2)
        return
    with pytest.raises(Malformed):
        parse(data, max_bytes=100)


@pytest.mark.parametrize("text", ["9007199254740993", "18446744073709551616", "-123456789012345678901234567890"])
def test_integers_stay_exact(text: str) -> None:
    """No integer silently becomes a rounded double."""
    assert parse(text.encode()) == int(text)


def test_an_absurd_integer_is_refused() -> None:
    """More digits than Python converts is a refusal, not a crash."""
    with pytest.raises(Malformed):
        parse(b"1" * 5000)


@given(VALUES, st.sampled_from([None, 2]), st.booleans())
def test_the_strict_reader_agrees_with_the_standard_library(value: object, indent: int | None, plain: bool) -> None:
    """Whatever is valid and names nothing twice is read as `json` reads it, white space or escapes notwithstanding."""
    data = json.dumps(value, indent=indent, ensure_ascii=plain).encode()
    assert parse(data) == cast("JsonValue", json.loads(data))
