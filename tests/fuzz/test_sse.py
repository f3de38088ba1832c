"""The counter of a provider's answer: the same counts however it arrives, never a fault, never much memory."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.formats.canonical_json import MAX_SAFE_INTEGER
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import UsageCounter, Wire
from broker.gateway.wires import WIRES
from tests.fuzz.mutations import altered, damaged, pieces_of
from tests.fuzz.outcome import effort

LONGEST_LINE = 256 * 1024
LONGEST_WHOLE = 4 * 1024 * 1024
CHUNK: dict[str, Any] = {"choices": [{"delta": {"content": 'data: {"usage":1}\n'}}], "usage": None}
USAGE: dict[str, Any] = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}
CACHED = {
    "input_tokens": 3,
    "cache_creation_input_tokens": 20,
    "cache_read_input_tokens": 2**53 - 24,
    "output_tokens": 1,
}
MESSAGES: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"usage": CACHED}},
    {"type": "message_delta", "usage": {"output_tokens": 9}},
    {"type": "message_stop"},
    {"type": "error", "error": {"type": "overloaded_error"}},
    {"type": "message", "usage": CACHED},
]
LARGE = st.sampled_from([2**53 - 1, 2**52, 2**53, 0])
Counted = tuple[int, int | None, int | None, bool, bool]


class Stream(bytes):
    """A provider's answer; what fills its long lines is not shown."""

    def __repr__(self) -> str:
        return re.sub(r"x{100,}", lambda run: f"<{len(run[0])} x>", super().__repr__())


@st.composite
def answers(draw: st.DrawFn) -> Stream:
    """A stream of events that was right: other events, comments, ends of line, and lines about as long as is kept."""
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        match draw(st.sampled_from(["chunk", "usage", "usage", "message", "done", "comment", "other", "long"])):
            case "chunk":
                lines.append(b"data: " + json.dumps(draw(altered(CHUNK))).encode())
            case "usage":
                lines.append(b"data: " + json.dumps(draw(altered(USAGE))).encode())
            case "message":
                event = draw(altered(draw(st.sampled_from(MESSAGES)), odd=LARGE))
                lines.append(b"event: x\ndata: " + json.dumps(event).encode())
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


def _counted(wire: Wire, pieces: Iterable[bytes], *, stream: bool) -> Counted:
    counter = UsageCounter(wire, stream=stream)
    for piece in pieces:
        counter.feed(piece)
        held = {name: value for name, value in vars(counter).items() if value is not wire}
        assert len(pickle.dumps(held)) <= (LONGEST_LINE if stream else LONGEST_WHOLE) + 4096
    counter.finish()
    for tokens in (counter.input_tokens, counter.output_tokens):
        assert tokens is None or 0 <= tokens <= MAX_SAFE_INTEGER  # what a record can hold
    return counter.size, counter.input_tokens, counter.output_tokens, counter.done, counter.failed


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _expected(stream: bytes) -> tuple[int, int | None, int | None, bool]:
    """The same of the OpenAI format by the whole stream at once: the last counts that the provider reported."""
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
            used = [new if new is not None else old for new, old in zip(told, used, strict=True)]
    return len(stream), used[0], used[1], done


def _refused(name: str) -> None:
    raise ValueError(name)


both = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)


@both
@effort(120)
@given(stream=answers(), data=st.data())
def test_usage_does_not_depend_on_the_pieces(wire: Wire, stream: Stream, data: st.DataObject) -> None:
    """Wherever the network cuts it, the counts are those of the whole, lines at the bound included."""
    pieces = data.draw(pieces_of(stream).map(lambda found: list(map(Stream, found))))
    assert _counted(wire, pieces, stream=True) == _counted(wire, [stream], stream=True)


@effort(150)
@given(answers())
def test_the_last_reported_usage_is_counted(stream: Stream) -> None:
    """Nothing but what the provider itself reported at the top of an event, and the last of it."""
    assert _counted(OPENAI, [stream], stream=True)[:4] == _expected(stream)


EVENTS = (st.just(USAGE) | st.sampled_from(MESSAGES)).flatmap(lambda event: altered(event, odd=LARGE))


@both
@effort(120)
@given(
    pieces=st.lists(st.binary(max_size=60) | EVENTS.map(lambda event: json.dumps(event).encode())), stream=st.booleans()
)
def test_nothing_makes_the_counter_fail(wire: Wire, pieces: list[bytes], stream: bool) -> None:
    """A provider's nonsense is counted in bytes; a document is counted like its text at once."""
    counted = _counted(wire, pieces, stream=stream)
    assert counted[0] == sum(map(len, pieces))
    assert counted == _counted(wire, [b"".join(pieces)], stream=stream)


@both
@effort(120)
@given(event=EVENTS)
@example(event={"type": "message", "usage": {"input_tokens": 2**52, "cache_read_input_tokens": 2**52}})
def test_a_document_is_counted_within_what_a_record_holds(wire: Wire, event: object) -> None:
    """No number that a provider reports is more than a record can say, added up or not."""
    _counted(wire, [json.dumps(event).encode()], stream=False)


LONG = st.sampled_from([b"x" * 300_000, b"data: ", b"\n", b"x" * 1_000_000, b'{"usage":'])


@effort(10)
@given(st.lists(LONG, max_size=12).map(lambda pieces: list(map(Stream, pieces))), st.booleans())
def test_endless_lines_are_not_kept(pieces: list[Stream], stream: bool) -> None:
    """However long a line or a document, memory is bounded at every piece; the bytes are counted all the same."""
    assert _counted(OPENAI, pieces, stream=stream)[0] == sum(map(len, pieces))
