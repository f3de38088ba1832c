"""The little that the broker reads of the Anthropic wire format, and what it says in it."""

from __future__ import annotations

import json

import pytest

from broker.errors import InvalidRequest
from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.endpoints import Endpoint, Model
from broker.gateway.wire import UsageCounter


def _counted(*documents: object, stream: bool = True) -> UsageCounter:
    counter = UsageCounter(ANTHROPIC, stream=stream)
    for document in documents:
        data = json.dumps(document).encode()
        counter.feed(b"event: x\ndata: " + data + b"\n\n" if stream else data)
    counter.finish()
    return counter


def _start(**usage: object) -> dict[str, object]:
    return {"type": "message_start", "message": {"usage": usage}}


def test_what_came_from_a_cache_was_given_too() -> None:
    """The API counts cached input apart; a meter that left it out would be walked around."""
    usage = {"input_tokens": 3, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 100, "output_tokens": 1}
    assert _counted(_start(**usage)).input_tokens == 123
    assert _counted({"type": "message", "usage": usage}, stream=False).input_tokens == 123
    assert _counted(_start(**{**usage, "cache_read_input_tokens": None})).input_tokens == 23


@pytest.mark.parametrize("value", [-1, True, 1.5, "7", 2**53, [1]])
def test_usage_that_is_no_count_is_not_taken(value: object) -> None:
    """One part that is no number, and the sum is not known."""
    assert _counted(_start(input_tokens=1, cache_read_input_tokens=value, output_tokens=1)).input_tokens is None


def test_the_last_count_of_the_output_is_the_one() -> None:
    """`message_delta` says what was put out so far."""
    deltas = [{"type": "message_delta", "usage": {"output_tokens": count}} for count in (4, 9)]
    found = _counted(_start(input_tokens=1, output_tokens=1), *deltas)
    assert (found.input_tokens, found.output_tokens, found.done) == (1, 9, False)


def test_a_stream_ends_where_it_says_so() -> None:
    """`message_stop` as an event's type, and not as a word in the model's text."""
    text = {"type": "content_block_delta", "delta": {"text": '{"type": "message_stop"} "message_stop" "error"'}}
    assert not _counted(text).done
    assert _counted(text, {"type": "message_stop"}).done


def test_what_the_provider_lists_apart_was_used_too() -> None:
    """`usage` leaves out some of its iterations, such as a compaction: the sum of them is what was used."""
    step = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 5}
    steps = [
        {"type": "compaction", **step, "input_tokens": 1000, "output_tokens": 90},
        {"type": "message", **step, "input_tokens": 20, "output_tokens": 7},
        "nonsense",
    ]
    usage = {"cache_read_input_tokens": 5, "input_tokens": 20, "output_tokens": 7, "iterations": steps}
    whole = _counted({"type": "message", "usage": usage}, stream=False)
    assert (whole.input_tokens, whole.output_tokens) == (1030, 97)
    streamed = _counted(_start(input_tokens=25, output_tokens=1), {"type": "message_delta", "usage": usage})
    assert (streamed.input_tokens, streamed.output_tokens) == (1030, 97)


def test_a_count_that_leaves_a_part_out_takes_nothing_back() -> None:
    """`message_delta` may repeat the input without its cached part; what was counted stays."""
    started = _start(input_tokens=3, cache_read_input_tokens=100, output_tokens=1)
    deltas = [{"type": "message_delta", "usage": {"input_tokens": 3, "output_tokens": count}} for count in (9, 4)]
    found = _counted(started, *deltas)
    assert (found.input_tokens, found.output_tokens) == (103, 9)


def test_a_sum_beyond_all_counts_is_not_known() -> None:
    """Counts that add up to more than a record can hold are none; the end of the call must be recorded."""
    most = 2**53 - 1
    assert _counted(_start(input_tokens=most, cache_read_input_tokens=1, output_tokens=1)).input_tokens is None
    assert _counted(_start(input_tokens=most, cache_read_input_tokens=0, output_tokens=1)).input_tokens == most
    steps = [{"input_tokens": most, "output_tokens": most}] * 2
    found = _counted({"type": "message", "usage": {"input_tokens": 1, "output_tokens": 1, "iterations": steps}})
    assert (found.input_tokens, found.output_tokens) == (None, None)


def _page(query: str) -> tuple[list[str], bool]:
    models = [Model(Endpoint("a", "anthropic", "https://a.example/v1", "", ()), name) for name in "edcba"]
    page = json.loads(ANTHROPIC.model_list(models, query.encode()))
    names = [each["id"] for each in page["data"]]
    assert (page["first_id"], page["last_id"]) == ((names[0], names[-1]) if names else (None, None))
    return names, page["has_more"]


@pytest.mark.parametrize(
    ("query", "names", "more"),
    [
        ("", "abcde", False),
        ("limit=2", "ab", True),
        ("limit=5", "abcde", False),
        ("after_id=b&limit=2", "cd", True),
        ("after_id=c&limit=2", "de", False),
        ("after_id=e", "", False),
        ("before_id=d&limit=2", "bc", True),
        ("before_id=c&limit=2", "ab", False),
        ("before_id=a", "", False),
        ("before_id=bb", "ab", False),
        ("beta=true", "abcde", False),
        ("limit=1000", "abcde", False),
    ],
)
def test_pages_are_next_to_each_other(query: str, names: str, more: bool) -> None:
    """`before_id` gives the models just before, in order, `after_id` those just after, both whether there is more."""
    assert _page(query) == (list(names), more)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=1001", "limit=x", "limit=-1", "limit=%EF%BC%92", "limit=1&limit=2", "limit=", "limit",
        "page=2", "after_id=", "before_id=", "after_id=a&before_id=c", "after_id=%ff", "beta=false",
        "beta=true&beta=true", "&", "limit=1&" * 9,
    ],
)  # fmt: skip
def test_a_page_is_asked_for_in_the_formats_words(query: str) -> None:
    """A parameter that is none, comes twice, or has no usable value is a clear refusal."""
    with pytest.raises(InvalidRequest, match=r"query|limit|`after_id`|`beta`"):
        _page(query)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "permission_error"),
        (404, "not_found_error"), (409, "invalid_request_error"), (413, "request_too_large"),
        (429, "rate_limit_error"), (500, "api_error"), (502, "api_error"), (503, "overloaded_error"),
    ],
)  # fmt: skip
def test_errors_have_the_formats_types(status: int, kind: str) -> None:
    """The documented type for each status, with the request's id where the format has it."""
    body = json.loads(ANTHROPIC.error_body(status, "Say less.", "code", "r-1"))
    assert body == {"type": "error", "error": {"type": kind, "message": "Say less."}, "request_id": "r-1"}
