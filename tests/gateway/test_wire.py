"""What all wire formats share: whatever would let another model answer is refused, and failures are seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import InvalidRequest
from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.endpoints import WIRES as NAMES
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import Asked, UsageCounter, Wire, parse_call
from broker.gateway.wires import WIRES

each_format = pytest.mark.parametrize("wire", WIRES.values(), ids=WIRES)


@each_format
@pytest.mark.parametrize(
    "members",
    [
        {"fallbacks": [{"model": "other"}]},
        {"fallbacks": "default"},
        {"FallBacks": []},
        {"fallback\N{LATIN SMALL LETTER LONG S}": []},
        {"models": ["other"]},
        {"Models": 1},
        {"api_base": "https://elsewhere.example"},
        {"provider": None},
        {"Model": "other"},
        {"STREAM": True},
    ],
)
def test_no_other_model_comes_in_by_another_door(wire: Wire, members: dict[str, object]) -> None:
    """Whatever member would let another model answer than the one that was decided on is refused, in any letters."""
    body = json.dumps({"model": "m", "messages": [], **members}).encode()
    with pytest.raises(InvalidRequest, match=r"leave it out|small letters"):
        parse_call(wire, body, max_bytes=4096)


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "advisor_20260301", "name": "advisor", "model": "other"}],
        [{"name": "x", "input_schema": {}}, {"Model": "other"}],
        {"model": "other"},
    ],
)
def test_no_tool_names_a_model(tools: object) -> None:
    """A tool by which another model would answer is refused where the format has such."""
    body = json.dumps({"model": "m", "messages": [], "tools": tools}).encode()
    with pytest.raises(InvalidRequest, match="A tool with `model`"):
        parse_call(ANTHROPIC, body, max_bytes=4096)
    assert parse_call(OPENAI, body, max_bytes=4096) == Asked("m", False)


@each_format
def test_names_below_the_top_are_free(wire: Wire) -> None:
    """Only the members that decide are guarded: a tool's parameters may be called as its maker likes."""
    parameters = {"type": "object", "properties": {"model": {}, "STREAM": {}, "fallbacks": {}}}
    tools = [{"name": "lookup", "input_schema": parameters, "Fallbacks": 1}]
    body = json.dumps({"model": "m", "stream": True, "tools": tools, "metadata": {"Model": "x"}}).encode()
    assert parse_call(wire, body, max_bytes=4096) == Asked("m", True)


@pytest.mark.parametrize("member", ["mcp_servers", "container", "thread", "inference_geo", "service_tier", "x_future"])
@each_format
def test_what_names_no_model_travels_on(wire: Wire, member: str) -> None:
    """Members that leave the model as it is are the provider's to judge."""
    assert parse_call(wire, json.dumps({"model": "m", member: [{}]}).encode(), max_bytes=4096) == Asked("m", False)


@pytest.mark.parametrize(
    ("wire", "event"), [(ANTHROPIC, {"type": "error", "error": {"type": "overloaded_error"}}), (OPENAI, {"error": {}})]
)
def test_an_error_in_a_stream_is_a_failure(wire: Any, event: object) -> None:
    """A stream that says that it failed did, whatever its status was; text about errors says nothing."""
    counter = UsageCounter(wire, stream=True)
    counter.feed(b'data: {"choices": [{"delta": {"content": "\\"error\\""}}], "error": null}\n\n')
    assert not counter.failed
    counter.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert counter.failed


def test_every_format_that_an_endpoint_may_name_is_there() -> None:
    """The names that manifests may use are those of the formats that the gateway speaks."""
    assert tuple(WIRES) == NAMES
