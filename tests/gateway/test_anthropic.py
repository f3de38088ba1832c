"""The Anthropic wire format: the unmodified SDK through a real broker, and what the broker reads of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth
from broker.errors import InvalidRequest
from broker.gateway.anthropic_wire import ANTHROPIC
from broker.gateway.endpoints import WIRES as NAMES
from broker.gateway.endpoints import Endpoint, Model
from broker.gateway.openai_wire import OPENAI
from broker.gateway.wire import UsageCounter, parse_call
from broker.gateway.wires import WIRES
from tests.build import MODEL, OTHER_MODEL, Running, call_headers, es256, running, token_request
from tests.gateway.world import last_records

MESSAGES_PATH = "/anthropic/v1/messages"
ASKED: list[Any] = [{"role": "user", "content": "one two three"}]
BROKEN = ("slow", "disconnect", "fail-429", "fail-500")
RULE = """@id("nightly-job") @agent("nightly") @owner("team-data") @ceiling("claude/stand-in-small claude/slow
claude/disconnect claude/fail-429 claude/fail-500")
permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")
when { principal.subject == "job-7" };""".replace("\n", " ", 1)

module_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker with an endpoint of the second format; its log is re-verified at the end."""
    async with running(tmp_path_factory.mktemp("anthropic")) as started:
        endpoint = {
            "wire": "anthropic",
            "base_url": f"{started.provider.origin}/v1",
            "secret": "provider-key",
            "models": [MODEL, OTHER_MODEL, *BROKEN],
        }
        await started.apply(started.world(endpoints={"claude": endpoint}, policies={"nightly.cedar": RULE}))
        yield started
        await started.broker.gateway.finish()
        await started.check_log()


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(run: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The plain SDK with the broker's address and its auth, nothing else."""
    auth = BrokerAuth(run.url, run.evidence)
    client = httpx2.AsyncClient(auth=auth)
    async with anthropic.AsyncAnthropic(
        base_url=f"{run.url}/anthropic", api_key="unused", http_client=client, max_retries=0
    ) as made:
        yield made


async def _ended(run: Running) -> dict[str, Any]:
    await run.broker.gateway.finish()
    admitted, end = await last_records(run, 2)
    assert (admitted["kind"], admitted["decision"]["outcome"]) == ("CallAdmitted", "permit")
    assert admitted["what"]["operation"] == "messages"
    return end


@module_loop
async def test_a_message_whole(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """One token, one call, the provider's own key and version, and what was used in the record."""
    answer = await sdk.messages.create(model=MODEL, max_tokens=100, messages=ASKED)
    assert answer.content[0].text == "one two three "  # type: ignore[union-attr]  # the stand-in answers with text
    sent = run.provider.received[-1].headers
    assert sent["x-api-key"] == run.provider.key
    assert "authorization" not in sent
    assert sent["anthropic-version"]
    end = await _ended(run)
    assert (end["kind"], end["request"]["input_tokens"], end["request"]["output_tokens"]) == ("CallCompleted", 3, 3)


@module_loop
async def test_a_message_streamed(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """The SDK's own stream helper gets every word; the usage of both its ends is recorded, and the end is an end."""
    async with sdk.messages.stream(model=MODEL, max_tokens=100, messages=ASKED) as stream:
        assert [text async for text in stream.text_stream] == ["one ", "two ", "three "]
    end = await _ended(run)
    assert (end["kind"], end["request"]["input_tokens"], end["request"]["output_tokens"]) == ("CallCompleted", 3, 3)


@module_loop
async def test_the_beta_namespace_works(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """`client.beta` sends a header of its own, which reaches the provider."""
    answer = await sdk.beta.messages.create(model=MODEL, max_tokens=9, messages=ASKED, betas=["x-2026-01-01"])
    assert answer.model == MODEL
    assert run.provider.received[-1].headers["anthropic-beta"] == "x-2026-01-01"
    await _ended(run)


@module_loop
async def test_the_list_is_what_may_be_called(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """The SDK pages through exactly the models that the ceiling lets the agent call."""
    expected = sorted([MODEL, *BROKEN])
    assert [model.id async for model in sdk.models.list(limit=2)] == expected
    assert [model.id for model in (await sdk.models.list()).data] == expected


@module_loop
async def test_refusals_are_the_sdks_own_errors(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """What policy refuses and what nobody offers raise what users of the SDK catch; nothing goes to the provider."""
    before = len(run.provider.received)
    with pytest.raises(anthropic.PermissionDeniedError, match="ceiling"):
        await sdk.messages.create(model=OTHER_MODEL, max_tokens=9, messages=ASKED)
    with pytest.raises(anthropic.NotFoundError):
        await sdk.messages.create(model="nobody-s", max_tokens=9, messages=ASKED)
    assert len(run.provider.received) == before


@module_loop
@pytest.mark.parametrize(
    ("model", "error"), [("fail-429", anthropic.RateLimitError), ("fail-500", anthropic.InternalServerError)]
)
async def test_a_provider_that_fails(
    run: Running, sdk: anthropic.AsyncAnthropic, model: str, error: type[Exception]
) -> None:
    """Its error passes, and the call is recorded as failed."""
    with pytest.raises(error):
        await sdk.messages.create(model=model, max_tokens=9, messages=ASKED)
    end = await _ended(run)
    assert (end["kind"], end["request"]["failure"]) == ("CallFailed", "provider_status")


@module_loop
async def test_a_caller_that_leaves_in_the_middle(run: Running) -> None:
    """The provider is let go and the end recorded, as in the other format."""
    key, token = await _token(run)
    body = json.dumps({"model": "slow", "stream": True, "max_tokens": 9, "messages": ASKED})
    http = await run.client()
    run.provider.left.clear()
    headers = call_headers(run, token, key, MESSAGES_PATH)
    async with http.stream("POST", MESSAGES_PATH, content=body, headers=headers) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_raw())
    await run.provider.left.wait()
    end = await _ended(run)
    assert (end["kind"], end["request"]["failure"]) == ("CallFailed", "left")


@module_loop
@pytest.mark.parametrize("path", ["/openai/v1/chat/completions", "/openai/v1/models"])
async def test_a_token_for_one_part_of_the_gateway_is_none_for_the_other(run: Running, path: str) -> None:
    """A token names the resource that it is for (RFC 8707), and each wire format is one."""
    key, token = await _token(run)
    method = "GET" if path.endswith("models") else "POST"
    http = await run.client()
    headers = call_headers(run, token, key, path, method)
    answer = await http.request(method, path, content=json.dumps({"model": MODEL}).encode(), headers=headers)
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@module_loop
async def test_the_query_of_older_sdks_passes(run: Running) -> None:
    """They ask for `?beta=true`, exactly; it reaches the provider, and the proof is for the path alone."""
    key, token = await _token(run)
    http = await run.client()
    body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": ASKED}).encode()
    headers = call_headers(run, token, key, MESSAGES_PATH)
    answer = await http.post(f"{MESSAGES_PATH}?beta=true", content=body, headers=headers)
    assert answer.status_code == 200
    assert run.provider.received[-1].path == "/v1/messages?beta=true"
    await _ended(run)


@module_loop
@pytest.mark.parametrize("query", ["beta=false", "beta=true&beta=true", "x=1", "beta=true&x=1", "%62eta=true"])
async def test_other_queries_do_not_pass(run: Running, query: str) -> None:
    """What the provider might read and we did not is refused, and recorded."""
    key, token = await _token(run)
    http = await run.client()
    body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": ASKED}).encode()
    headers = call_headers(run, token, key, MESSAGES_PATH)
    answer = await http.post(f"{MESSAGES_PATH}?{query}", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert (await last_records(run, 1))[0]["kind"] == "CallRefused"


@module_loop
@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "page=2", "limit"])
async def test_a_list_is_asked_for_in_the_formats_words(run: Running, query: str) -> None:
    """A parameter that is none, or has no usable value, is a clear refusal."""
    key, token = await _token(run)
    http = await run.client()
    headers = call_headers(run, token, key, "/anthropic/v1/models", "GET")
    answer = await http.get(f"/anthropic/v1/models?{query}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def _token(run: Running) -> tuple[ec.EllipticCurvePrivateKey, str]:
    key = es256()
    answer = await token_request(run, key=key, resource=f"{run.url}/anthropic/v1")
    assert answer.status_code == 200, answer.text
    return key, answer.json()["access_token"]


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


@pytest.mark.parametrize(("more", "counted"), [(0, 2**53 - 1), (1, None)])
def test_a_sum_that_no_record_can_hold_is_not_taken(more: int, counted: int | None) -> None:
    """Each part is a number, their sum is beyond what is exact: the end of the call is recorded all the same."""
    usage = {"input_tokens": 2**52, "cache_read_input_tokens": 2**52 - 1 + more, "output_tokens": 1}
    assert _counted(_start(**usage)).input_tokens == counted


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


@pytest.mark.parametrize(
    "members",
    [
        {"fallbacks": [{"model": "other"}]},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "model": "other"}]},
        {"tools": [{"name": "x", "input_schema": {}}, {"Model": "other"}]},
        {"tools": {"model": "other"}},
        {"Model": "other"},
        {"STREAM": True},
    ],
)
def test_no_other_model_comes_in_by_another_door(members: dict[str, object]) -> None:
    """Whatever member would let another model answer than the one that was decided on is refused."""
    body = json.dumps({"model": "m", "messages": [], **members}).encode()
    with pytest.raises(InvalidRequest):
        parse_call(ANTHROPIC, body, max_bytes=4096)


def test_tools_may_call_their_arguments_as_they_like() -> None:
    """Only what the API reads as a model is guarded."""
    tool = {"name": "lookup", "input_schema": {"type": "object", "properties": {"model": {"type": "string"}}}}
    body = json.dumps({"model": "m", "stream": True, "tools": [tool]}).encode()
    assert parse_call(ANTHROPIC, body, max_bytes=4096).model == "m"


def test_a_page_before_another_is_the_one_next_to_it() -> None:
    """`before_id` gives the models just before, in order, as `after_id` gives those just after."""
    models = [Model(Endpoint("a", "anthropic", "https://a.example/v1", "", ()), name) for name in "edcba"]
    before = json.loads(ANTHROPIC.model_list(models, b"before_id=d&limit=2"))
    after = json.loads(ANTHROPIC.model_list(models, b"after_id=b&limit=2"))
    assert [each["id"] for each in before["data"]] == ["b", "c"]
    assert ([each["id"] for each in after["data"]], after["has_more"], after["last_id"]) == (["c", "d"], True, "d")


def test_every_format_that_an_endpoint_may_name_is_there() -> None:
    """The names that manifests may use are those of the formats that the gateway speaks."""
    assert tuple(WIRES) == NAMES
