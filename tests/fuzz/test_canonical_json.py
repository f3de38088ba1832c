"""Canonical JSON: whatever the spelling, one value or a refusal, and each value has one spelling."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.formats.canonical_json import MAX_SAFE_INTEGER, canonical, parse
from tests.formats.test_canonical_json import VALUES, slow
from tests.fuzz.mutations import ODD, altered, damaged, spelled
from tests.fuzz.outcome import effort, taken

MAX_DEPTH = 32
SEED: dict[str, Any] = {"a": [1, 2.5, {"b": None, "é": "x\n"}], "\U0001f600": True, "\ue000": {"": [[]]}, "n": 1e21}
TEXTS = altered(SEED).flatmap(spelled) | VALUES.flatmap(spelled)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _plain(data: bytes) -> tuple[bool, Any]:
    """Whether a text is JSON with one meaning, and what it means, by Python's own reader and nothing of ours."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("twice")
        return dict(pairs)

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError("too large")
        return value

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # no lone surrogates
    except (ValueError, RecursionError):
        return False, None
    return _depth(value) <= MAX_DEPTH, value


def _doubles(value: Any) -> Any:
    """A value as read, numbers beyond 2**53 - 1 as the doubles that RFC 8785 §3.1 takes them for."""
    if isinstance(value, dict):
        return {name: _doubles(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_doubles(item) for item in value]
    return float(value) if type(value) is int and abs(value) > MAX_SAFE_INTEGER else value


@effort(500)
@given(TEXTS | TEXTS.flatmap(damaged))
def test_a_text_means_what_it_means_to_others_or_is_refused(data: bytes) -> None:
    """Taken exactly when Python's own reader finds one meaning, and then with that meaning."""
    whole = taken(lambda: (parse(data, max_depth=MAX_DEPTH),))
    good, value = _plain(data)
    large = whole is None and good and any(len(digits) > 300 for digits in data.split(b","))
    assert (whole is not None) is good or large
    if whole is not None:
        assert json.dumps(whole[0]) == json.dumps(value)


@effort(200)
@given(VALUES)
def test_writing_and_reading_come_back(value: object) -> None:
    """What is written reads back, is written the same again, and is what a slow writer of RFC 8785 writes."""
    data = canonical(value)
    again = _doubles(parse(data))
    assert canonical(again) == data == slow(value).encode()
    assert _doubles(parse(canonical(again))) == again


@effort(200)
@given(st.data())
def test_every_spelling_of_a_value_has_one_canonical_form(data: st.DataObject) -> None:
    """Order, spacing and escapes leave no trace."""
    value = data.draw(VALUES)
    assert canonical(parse(data.draw(spelled(value, honest=True)))) == canonical(value)


@effort(200)
@given(altered(SEED, odd=st.sampled_from([*ODD, "\ud800", b"x", {1: 2}, (1, 2), {1}, float("nan"), float("-inf")])))
def test_a_value_is_written_or_refused(value: object) -> None:
    """What JSON cannot say is refused; what is written, every reader reads."""
    data = taken(lambda: canonical(value))
    if data is not None:
        json.loads(data)
        assert canonical(_doubles(parse(data))) == data


@effort(50)
@given(st.integers(1, 200), st.sampled_from([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"":', b"}]")]))
def test_the_bound_of_depth_is_exact(depth: int, around: tuple[bytes, bytes]) -> None:
    """At the bound a text is read, one deeper it is not, and brackets in texts do not count."""
    opening, closing = around
    text = opening * depth + b'"[{[{"' + closing * depth
    levels = depth * len(closing)
    assert (taken(lambda: (parse(text, max_depth=MAX_DEPTH),)) is not None) is (levels <= MAX_DEPTH)
