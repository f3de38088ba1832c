"""Nearly valid inputs: what is right, altered in its structure, its spelling or its bytes."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz.outcome import SECRET

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e16, 1e308, 2**31, 2**53, 2**63, 2**64, -(2**64), 10**40, "", " ", "0",
    "true", "null", SECRET, "a\x00b", "\n", "\u007f", "é", "\u202e", "\ufeff", "\U0001f600", "x" * 300, "x" * 5000,
    "../..", "%00", "'--", [], {}, [[]], [None], [SECRET], {"": ""}, {SECRET: SECRET}, {"a": {"a": {"a": {"a": {}}}}},
    [[[[[[[[[[]]]]]]]]]],
]  # fmt: skip
"""Values that another parser took for something else, or fell over."""


@st.composite
def altered(draw: st.DrawFn, value: Any, *, most: int = 3, odd: SearchStrategy[Any] | None = None) -> Any:
    """A JSON value with up to `most` places removed, replaced, renamed, doubled, wrapped or swapped; perhaps none."""
    value = copy.deepcopy(value)
    odd = st.sampled_from(ODD) if odd is None else odd | st.sampled_from(ODD)
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(value))
        if not places:
            return draw(odd)
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(["replace", "replace", "remove", "rename", "double", "wrap", "swap", "add"])):
            case "replace":
                holder[key] = copy.deepcopy(draw(odd))
            case "remove":
                del holder[key]
            case "rename":
                moved = holder.pop(key)
                _insert(holder, draw(st.sampled_from(_names(key))), moved)
            case "double":
                _insert(holder, draw(st.sampled_from(_names(key))), copy.deepcopy(holder[key]))
            case "wrap":
                holder[key] = _wrapped(key, holder[key])[draw(st.integers(0, 2))]
            case "swap":
                other_holder, other_key = places[draw(st.integers(0, len(places) - 1))]
                first, second = copy.deepcopy(holder[key]), copy.deepcopy(other_holder[other_key])
                holder[key], other_holder[other_key] = second, first
            case _:
                _insert(holder, draw(st.sampled_from(["x", "__proto__", "é", ""])), copy.deepcopy(draw(odd)))
    return value


@st.composite
def spelled(draw: st.DrawFn, value: Any, *, honest: bool = False) -> bytes:
    """A JSON text of a value: any order, spacing and escapes.

    Args:
        draw: given by Hypothesis.
        value: what JSON can say.
        honest: nothing but spelling; else names also stand twice, numbers are too large, bytes do not fit.
    """
    text = json.dumps(
        _ordered(draw, value),
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")])),
        indent=draw(st.sampled_from([None, None, 1])),
    )
    names = list(value) if isinstance(value, Mapping) else []
    spelled: bool = draw(st.booleans())
    if names and spelled:
        name = draw(st.sampled_from(names))
        if name and name[0] < "\uffff":
            text = text.replace(json.dumps(name) + ":", f'"\\u{ord(name[0]):04x}{json.dumps(name[1:])[1:]}:', 1)
    if not honest:
        match draw(st.sampled_from(["", "", "", "twice", "number", "frame", "encoding"])):
            case "twice" if names:
                name, odd = draw(st.sampled_from(names)), json.dumps(draw(st.sampled_from(ODD)))
                again = f"{json.dumps(name)}:{odd}"
                text = f"{{{again},{text.strip()[1:]}" if draw(st.booleans()) else f"{text.strip()[:-1]},{again}}}"
            case "number":
                digit = draw(
                    st.sampled_from(["1e999", "1E400", "-0", "0.1e1", "NaN", "Infinity", "9" * 5000, "1e-999"])
                )
                text = text.replace("1", digit, 1)
            case "frame":
                before, after = draw(st.sampled_from([("\ufeff", ""), ("", ","), ("[", "]"), ("", "\x00"), ("", text)]))
                text = before + text + after
            case "encoding":
                return text.encode(draw(st.sampled_from(["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7"])))
            case _:
                pass
    return text.encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, data: bytes, *, most: int = 3) -> bytes:
    """Bytes with up to `most` places flipped, cut, doubled, moved or filled; perhaps none."""
    for _ in range(draw(st.integers(0, most))):
        at, end = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        match draw(st.sampled_from(["flip", "flip", "cut", "end", "insert", "double", "replace"])):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
            case "cut":
                data = data[:at] + data[end:]
            case "end":
                data = data[:at]
            case "double":
                data = data[:end] + data[at:end] * draw(st.sampled_from([1, 1, 2, 50])) + data[end:]
            case "replace":
                data = data[:at] + draw(st.binary(max_size=8)) + data[end:]
            case _:
                pieces = st.sampled_from(
                    [b"\x00", b"\n", b"\r\n", b" ", b"=", b".", b",", b"%", b"\xff", b"\xc3\xa9", b"0"]
                )
                data = data[:at] + draw(pieces | st.binary(max_size=8)) + data[at:]
    return data


@st.composite
def damaged_text(draw: st.DrawFn, text: str, *, most: int = 3) -> str:
    """A text whose bytes were damaged: read as UTF-8 where that goes, else byte by byte."""
    data = draw(damaged(text.encode(), most=most))
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


@st.composite
def pieces_of(draw: st.DrawFn, data: bytes, *, most: int = 12) -> list[bytes]:
    """Bytes as a network delivers them: in pieces, some of them empty, many cut near the end of a line."""
    ends = [at for at, byte in enumerate(data) if byte == 0x0A] or [0]
    near = st.builds(lambda end, off: min(max(end + off, 0), len(data)), st.sampled_from(ends), st.integers(-3, 3))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)) | near, max_size=most)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _ordered(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict) or len(value) < 2:
        return value
    return {name: value[name] for name in draw(st.permutations(list(value)))}


def _places(value: Any) -> Any:
    """Every place in a value, as the container and the key in it."""
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for key in range(len(value)):
            yield value, key
            yield from _places(value[key])


def _wrapped(key: Any, value: Any) -> list[Any]:
    return [[value], {str(key): value}, [value, copy.deepcopy(value)]]


def _names(key: Any) -> list[str]:
    name = str(key)
    return [name.upper(), name.title(), name + "s", name + " ", name + "\x00", name[:-1], "é" + name, f"{name}.{name}"]


def _insert(holder: Any, name: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    else:
        holder.append(value)
