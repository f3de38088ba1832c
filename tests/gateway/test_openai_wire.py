"""The little that the broker reads of the wire format, whatever the pieces in which it arrives."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidRequest
from broker.gateway.endpoints import Endpoint, Model
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import Asked, UsageCounter, parse_call

STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
    b": a comment\r\n\r\n"
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\r\n\r\n'
    b"data: [DONE]\n\n"
)


def _fed(pieces: list[bytes], *, stream: bool) -> UsageCounter:
    counter = UsageCounter(OPENAI, stream=stream)
    for piece in pieces:
        counter.feed(piece)
    counter.finish()
    return counter


@given(st.lists(st.integers(0, len(STREAM))))
def test_usage_does_not_depend_on_the_pieces(cuts: list[int]) -> None:
    """Wherever the network cuts a stream, the same usage is counted."""
    places = sorted({0, *cuts, len(STREAM)})
    counter = _fed([STREAM[a:b] for a, b in pairwise(places)], stream=True)
    assert (counter.size, counter.input_tokens, counter.output_tokens) == (len(STREAM), 7, 5)


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_no_answer_makes_the_counter_fail(pieces: list[bytes], stream: bool) -> None:
    """A provider's nonsense is counted in bytes and never an error of ours."""
    counter = _fed(pieces, stream=stream)
    assert counter.size == sum(map(len, pieces))


def test_a_line_without_end_is_not_kept() -> None:
    """A stream that never ends its line costs a quarter of a mebibyte, and what follows is counted again."""
    counter = UsageCounter(OPENAI, stream=True)
    for _ in range(100):
        counter.feed(b"data: " + b"x" * 10_000)
        assert len(counter._kept) <= 256 * 1024
    counter.feed(b'"usage"\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n')
    assert (counter.input_tokens, counter.output_tokens) == (1, 2)


@pytest.mark.parametrize(("over", "counted"), [(0, 7), (1, None)])
def test_a_line_too_long_is_not_read_however_it_arrives(over: int, counted: int | None) -> None:
    """A line of a quarter of a mebibyte is read and one byte more is not, at once as in pieces."""
    start = b'data: {"usage":{"prompt_tokens":7},"x":"'
    line = start + b"x" * (256 * 1024 + over - len(start) - 2) + b'"}'
    for pieces in ([line + b"\n"], [line, b"\n"], [line[:9], line[9:] + b"\n"], [line]):
        assert _fed(pieces, stream=True).input_tokens == counted


def test_a_document_without_end_is_not_kept() -> None:
    """A whole answer beyond four mebibytes passes without being kept; its usage is then not known."""
    counter = _fed([b"x" * 1024 * 1024] * 5, stream=False)
    assert (counter.size, counter.input_tokens) == (5 * 1024 * 1024, None)


@pytest.mark.parametrize("value", [-1, True, 1.5, "7", 2**53, None, [1]])
def test_usage_that_is_no_count_is_not_taken(value: object) -> None:
    """What a provider reports is a whole number from zero, or it is not recorded."""
    counter = _fed([json.dumps({"usage": {"prompt_tokens": value, "completion_tokens": 1}}).encode()], stream=False)
    assert (counter.input_tokens, counter.output_tokens) == (None, 1)


def test_usage_in_the_text_of_an_answer_is_not_usage() -> None:
    """Only the provider's own member counts: an agent cannot have its model say another number."""
    said = {"choices": [{"message": {"content": '{"usage":{"prompt_tokens":0}}', "usage": {"prompt_tokens": 0}}}]}
    counter = _fed([b"data: " + json.dumps(said).encode() + b"\n"], stream=True)
    assert counter.input_tokens is None


@given(st.text(min_size=1, max_size=200), st.sampled_from([True, False, None]))
def test_the_model_is_read_as_it_is_meant(model: str, stream: bool | None) -> None:
    """Any name of 200 characters is read exactly, with the streaming flag."""
    body = json.dumps({"model": model, "stream": stream}, ensure_ascii=False).encode()
    assert parse_call(OPENAI, body, max_bytes=4096) == Asked(model, bool(stream))


def test_the_longest_name() -> None:
    """200 characters are a name, 201 are none."""
    assert parse_call(OPENAI, b'{"model":"' + b"m" * 200 + b'"}', max_bytes=4096).model == "m" * 200
    with pytest.raises(InvalidRequest, match="`model`"):
        parse_call(OPENAI, b'{"model":"' + b"m" * 201 + b'"}', max_bytes=4096)


def test_a_list_names_each_model() -> None:
    """The list is the format's own."""
    models = [Model(Endpoint("a", "openai", "https://a.example/v1", "", ("m",)), "m")]
    assert json.loads(OPENAI.model_list(models, b"")) == {
        "object": "list",
        "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "a"}],
    }
