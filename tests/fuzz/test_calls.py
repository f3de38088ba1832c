"""The bodies of model calls: what the broker decides on is what every parser at the provider reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import Wire, parse_call
from broker.gateway.wires import WIRES
from tests.fuzz.mutations import altered, damaged, spelled
from tests.fuzz.outcome import SECRET, effort, taken

MAX_BYTES = 4096
CALL: dict[str, Any] = {
    "model": "stand-in-small", "stream": True, "messages": [{"role": "user", "content": SECRET}], "temperature": 0.5,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"model": "x", "stream": 1}}}],
}  # fmt: skip
ODD = st.sampled_from(["stand-in-large", "m" * 200, "m" * 201, True, False, None, "true", 1])
NAMES = [
    "model",
    "Model",
    "MODEL",
    "stream",
    "ſtream",
    "Stream",
    "models",
    "fallbacks",
    "api_base",
    "model ",
    "mode\u006c",
]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A call that was right, altered, with members that some parsers take for `model`, spelled anyhow."""
    body = draw(altered(CALL, odd=ODD))
    if isinstance(body, dict) and draw(st.booleans()):
        body[draw(st.sampled_from(NAMES))] = draw(ODD)
    data = draw(spelled(body, honest=draw(st.booleans())))
    return draw(damaged(data, most=1)) if draw(st.integers(0, 3)) == 0 else data


def _readings(body: bytes) -> list[tuple[Any, Any]]:
    """Model and stream as the first and the last member of each name, and without telling cases apart."""
    found: list[list[tuple[str, Any]]] = []

    def kept(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(pairs)
        return dict(pairs)

    json.loads(body, object_pairs_hook=kept)
    pairs = found[-1]  # the outermost object ends last
    folded = [(name.casefold(), value) for name, value in pairs]
    ways = [dict(pairs), dict(reversed(pairs)), dict(folded), dict(reversed(folded))]
    return [(way.get("model"), bool(way.get("stream"))) for way in ways]


@pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)
@effort(300)
@given(body=bodies())
def test_a_call_has_one_model_or_is_refused(wire: Wire, body: bytes) -> None:
    """First or last of two members, with or without telling cases apart: a body that passes says the same to all."""
    asked = taken(lambda: parse_call(wire, body, max_bytes=MAX_BYTES))
    if asked is not None:
        assert set(_readings(body)) == {(asked.model, asked.stream)}
        assert 0 < len(asked.model) <= 200
        assert len(body) <= MAX_BYTES


@effort(200)
@given(st.binary(max_size=100) | st.text('{}[]":,model\\', max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """A body that is no call at all is refused in words of ours."""
    taken(lambda: parse_call(OPENAI, body, max_bytes=MAX_BYTES))


@effort(60)
@given(st.sampled_from([b"[", b'{"a":', b'[{"a":', b" ", b'"', b"1", b"[],", b"\\"]), st.integers(1, 3000))
def test_depth_and_length_are_bounded(piece: bytes, times: int) -> None:
    """However often something is repeated, a body is read within its bounds, or refused without a fault."""
    body = b'{"model":"m","x":' + piece * times + b"}"
    taken(lambda: parse_call(OPENAI, body, max_bytes=MAX_BYTES))
    assert (
        taken(lambda: parse_call(OPENAI, b'{"model":"m","x":"' + b"x" * MAX_BYTES + b'"}', max_bytes=MAX_BYTES)) is None
    )
