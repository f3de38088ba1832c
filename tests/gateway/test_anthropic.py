"""The second wire format through a real broker: the unmodified SDK, and what a query may hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth
from tests.build import MODEL, OTHER_MODEL, Running, call_headers, es256, running, token_request
from tests.gateway.world import last_records, records

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
async def test_the_blocking_sdk_works(run: Running) -> None:
    """The blocking client lists models and calls one, streamed and not, and names the provider's request."""

    def calls() -> tuple[list[str], str, str | None, str]:
        http = httpx2.Client(auth=BrokerAuth(run.url, run.evidence))
        with anthropic.Anthropic(base_url=f"{run.url}/anthropic", api_key="unused", http_client=http) as client:
            listed = [model.id for model in client.models.list(limit=1)]
            whole = client.messages.create(model=MODEL, max_tokens=9, messages=ASKED)
            with client.messages.stream(model=MODEL, max_tokens=9, messages=ASKED) as stream:
                streamed = stream.get_final_text()
            return listed, whole.content[0].text, whole._request_id, streamed  # type: ignore[union-attr]  # it is text

    listed, whole, request_id, streamed = await asyncio.to_thread(calls)
    assert listed == sorted([MODEL, *BROKEN])
    assert (whole, streamed) == ("one two three ", "one two three ")
    assert request_id
    assert request_id.startswith("req_")
    await _ended(run)


@module_loop
async def test_the_list_is_what_may_be_called(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """The SDK pages, in both directions, through exactly the models that the ceiling lets the agent call."""
    expected = sorted([MODEL, *BROKEN])
    assert [model.id async for model in sdk.models.list(limit=2)] == expected
    assert [model.id for model in (await sdk.models.list()).data] == expected
    before = [model.id async for model in sdk.models.list(limit=2, before_id=expected[-1])]
    assert sorted(before) == expected[:-1]
    assert [model.id async for model in sdk.beta.models.list(after_id=expected[0])] == expected[1:]


@module_loop
async def test_refusals_are_the_sdks_own_errors(run: Running, sdk: anthropic.AsyncAnthropic) -> None:
    """What is refused raises what users of the SDK catch, with the id of its record; nothing goes to the provider."""
    before = len(run.provider.received)
    with pytest.raises(anthropic.PermissionDeniedError, match="ceiling") as denied:
        await sdk.messages.create(model=OTHER_MODEL, max_tokens=9, messages=ASKED)
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await sdk.messages.create(model="nobody-s", max_tokens=9, messages=ASKED)
    with pytest.raises(anthropic.BadRequestError) as bad:
        await sdk.messages.create(model=MODEL, max_tokens=9, messages=ASKED, extra_body={"fallbacks": "default"})
    assert len(run.provider.received) == before
    types = [refusal.value.type for refusal in (denied, unknown, bad)]
    assert types == ["permission_error", "not_found_error", "invalid_request_error"]
    for refusal in (denied, unknown, bad):
        assert refusal.value.request_id
        (refused,) = await records(run, refusal.value.request_id)
        assert (refused["kind"], refused["what"]["operation"]) == ("CallRefused", "messages")


@module_loop
async def test_a_key_of_the_providers_is_none_here(run: Running) -> None:
    """Without `BrokerAuth` the SDK's own key opens nothing: 401 with the challenge that says where to get a token."""
    async with anthropic.AsyncAnthropic(
        base_url=f"{run.url}/anthropic", api_key=run.provider.key, max_retries=0
    ) as client:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            await client.messages.create(model=MODEL, max_tokens=9, messages=ASKED)
    assert refused.value.type == "authentication_error"
    challenge = refused.value.response.headers["www-authenticate"]
    assert f'resource_metadata="{run.url}/.well-known/oauth-protected-resource/anthropic/v1"' in challenge


@module_loop
async def test_the_providers_version_is_named_for_callers_without_one(run: Running) -> None:
    """The API wants `anthropic-version`: a caller that sends none has the one that the broker knows."""
    key, token = await _token(run)
    http = await run.client()
    body = json.dumps({"model": MODEL, "max_tokens": 9, "messages": ASKED}).encode()
    for sent, seen in (({}, "2023-06-01"), ({"anthropic-version": "2023-01-01"}, "2023-01-01")):
        headers = {**call_headers(run, token, key, MESSAGES_PATH), **sent}
        assert (await http.post(MESSAGES_PATH, content=body, headers=headers)).status_code == 200
        assert run.provider.received[-1].headers["anthropic-version"] == seen
    await _ended(run)


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
@pytest.mark.parametrize("query", ["limit=1001", "page=2"])
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
