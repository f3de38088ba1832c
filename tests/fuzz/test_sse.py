"""The counter of a provider's answer: the same counts however it arrives, never a fault, never much memory."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import UsageCounter, Wire
from tests.fuzz.mutations import altered, damaged, pieces_of
from tests.fuzz.outcome import effort

LONGEST_LINE = 256 * 1024
LONGEST_WHOLE = 4 * 1024 * 1024
CHUNK: dict[str, Any] = {"choices": [{"delta": {"content": 'data: {"usage":1}\n'}}], "usage": None}
USAGE: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}


MESSAGE_USAGE: dict[str, Any] = {
    "input_tokens": 3, "cache_creation_input_tokens": None, "cache_read_input_tokens": 100, "output_tokens": 5,
    "iterations": [{"type": "compaction", "input_tokens": 1000, "cache_read_input_tokens": 0, "output_tokens": 90}],
}  # fmt: skip
MESSAGE: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": MESSAGE_USAGE}},
    {"type": "content_block_delta", "delta": {"text": '{"usage": 1}'}},
    {"type": "message_delta", "usage": MESSAGE_USAGE},
    {"type": "message_stop"},
]
COUNTS = st.sampled_from([2**53 - 1, 2**53, 2**63, 10**30, -1, True, 1.5, "7", [], {}])


class Stream(bytes):
    """A provider's answer; what fills its long lines is not shown."""

    def __repr__(self) -> str:
        return re.sub(r"x{100,}", lambda run: f"<{len(run[0])} x>", super().__repr__())


@st.composite
def answers(draw: st.DrawFn) -> Stream:
    """A stream of events that was right: other events, comments, ends of line, and lines about as long as is kept."""
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(["chunk", "usage", "usage", "done", "comment", "other", "long"])):
            case "chunk":
                lines.append(b"data: " + json.dumps(draw(altered(CHUNK))).encode())
            case "usage":
                lines.append(b"data: " + json.dumps(draw(altered(USAGE))).encode())
            case "done":
                lines.append(draw(st.sampled_from([b"data: [DONE]", b"data:[DONE] ", b"data: [done]", b"[DONE]"])))
            case "long":
                filled = json.dumps({**USAGE, "x": ""}).encode()
                size = LONGEST_LINE - len(b"data: ") - len(filled) + draw(st.integers(-3, 3))
                lines.append(b"data: " + filled[:-2] + b"x" * size + filled[-2:])
            case "other":
                lines.append(draw(st.sampled_from([b"event: message", b"id: 1", b"retry: 1", b"", b"data:", b"data"])))
            case _:
                lines.append(b": " + draw(st.binary(max_size=8)))
    ends = st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n"])
    stream = b"".join(line + draw(ends) for line in lines)
    return Stream(draw(damaged(stream, most=2)) if draw(st.integers(0, 3)) == 0 else stream)


def _counted(pieces: Iterable[bytes], *, stream: bool, wire: Wire = OPENAI) -> tuple[int, int | None, int | None, bool]:
    counter = UsageCounter(wire, stream=stream)
    for piece in pieces:
        counter.feed(piece)
        assert len(pickle.dumps(counter)) <= (LONGEST_LINE if stream else LONGEST_WHOLE) + 4096
    counter.finish()
    return counter.size, counter.input_tokens, counter.output_tokens, counter.done


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _expected(stream: bytes) -> tuple[int, int | None, int | None, bool]:
    """The same by the whole stream at once: the highest counts that the provider reported."""
    used: list[int | None] = [None, None]
    done = False
    for line in stream.split(b"\n"):
        if not line.startswith(b"data:") or len(line) > LONGEST_LINE:
            continue
        done = done or line[5:].strip() == b"[DONE]"
        try:
            event = json.loads(line[5:].decode(), parse_constant=_refused)
        except ValueError:
            continue
        usage = event.get("usage") if isinstance(event, dict) else None
        if isinstance(usage, dict) and b'"usage"' in line:
            told = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
            used = [old if new is None else max(new, old or 0) for new, old in zip(told, used, strict=True)]
    return len(stream), used[0], used[1], done


def _refused(name: str) -> None:
    raise ValueError(name)


@effort(150)
@given(answers(), st.data())
def test_usage_does_not_depend_on_the_pieces(stream: Stream, data: st.DataObject) -> None:
    """Wherever the network cuts it, the counts are those of the whole, lines at the bound included."""
    pieces = data.draw(pieces_of(stream).map(lambda found: list(map(Stream, found))))
    assert _counted(pieces, stream=True) == _counted([stream], stream=True)


@effort(150)
@given(answers())
def test_the_highest_reported_usage_is_counted(stream: Stream) -> None:
    """Nothing but what the provider itself reported at the top of an event, and the most of it."""
    assert _counted([stream], stream=True) == _expected(stream)


@effort(150)
@given(st.lists(st.binary(max_size=60) | altered(USAGE).map(lambda event: json.dumps(event).encode())), st.booleans())
def test_nothing_makes_the_counter_fail(pieces: list[bytes], stream: bool) -> None:
    """A provider's nonsense is counted in bytes; a document is counted like its text at once."""
    counted = _counted(pieces, stream=stream)
    assert counted[0] == sum(map(len, pieces))
    assert counted == _counted([b"".join(pieces)], stream=stream)


@st.composite
def messages(draw: st.DrawFn) -> Stream:
    """A stream of the other format that was right, with counts that are none and counts without bound."""
    lines = [b"event: x\ndata: " + json.dumps(draw(altered(event, odd=COUNTS))).encode() for event in MESSAGE]
    stream = b"\n\n".join([*lines, b""])
    return Stream(draw(damaged(stream, most=2)) if draw(st.booleans()) else stream)


@effort(150)
@given(messages(), st.data())
def test_the_counts_of_a_message_can_be_recorded(stream: Stream, data: st.DataObject) -> None:
    """Whatever the provider reports, in whatever pieces: a count that a record can hold, or none."""
    pieces = data.draw(pieces_of(stream).map(lambda found: list(map(Stream, found))))
    counted = _counted(pieces, stream=True, wire=ANTHROPIC)
    assert counted == _counted([stream], stream=True, wire=ANTHROPIC)
    assert all(found is None or _count(found) is not None for found in counted[1:3])


@effort(10)
@given(
    st.lists(
        st.sampled_from(
            [b"x" * 300_000, b"data: ", b"\n", b"x" * 1_000_000, b'{"usage":'],
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_endless_lines_are_not_kept(pieces: list[bytes], stream: bool) -> None:
    """However long a line or a document, memory is bounded at every piece; the bytes are counted all the same."""
    assert _counted(pieces, stream=stream)[0] == sum(map(len, pieces))
