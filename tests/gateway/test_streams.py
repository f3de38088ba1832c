"""A call while it streams: who leaves, who stalls, who breaks off; and what is recorded of its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from broker.audit import trail
from broker.clock import SystemClock
from broker.demo.provider import StandInProvider
from broker.entropy import system_entropy
from broker.settings import Gateway
from tests.build import MODEL, Running, free_port, running
from tests.faults import locked
from tests.gateway.world import CHAT, MESSAGES, RULES, ByHand, by_hand, last_records, manifest, records, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _ended(run: Running, request_id: str) -> list[str]:
    """The kinds of a call's records, once its end is among them."""

    async def has_ended() -> bool:
        return len(await records(run, request_id)) > 1

    await until(has_ended)
    await run.broker.gateway.finish()
    return [record["kind"] for record in await records(run, request_id)]


async def _leave_in_the_middle(caller: ByHand) -> str:
    """Reads the first piece of a stream that never ends, and goes."""
    body = json.dumps({"model": "slow", "stream": True, "messages": MESSAGES})
    async with caller.http.stream("POST", caller.part.call, content=body, headers=caller.headers()) as answer:
        assert answer.status_code == 200
        await anext(answer.aiter_raw())
        return answer.headers["broker-request-id"]


async def test_a_caller_that_leaves_lets_the_provider_go(run: Running, caller: ByHand) -> None:
    """Twenty callers leave mid-stream: each time the provider is let go at once, and exactly one end is recorded."""
    for _ in range(20):
        run.provider.left.clear()
        request_id = await _leave_in_the_middle(caller)
        await asyncio.wait_for(run.provider.left.wait(), 5)
        assert await _ended(run, request_id) == ["CallAdmitted", "CallFailed"]
    assert (await last_records(run, 1))[0]["request"]["failure"] == "left"


async def test_many_callers_that_leave_together(run: Running, caller: ByHand) -> None:
    """Callers that leave at the same moment each leave exactly one end, whoever shares their transaction."""
    requests = await asyncio.gather(*(_leave_in_the_middle(caller) for _ in range(8)))
    for request_id in requests:
        assert await _ended(run, request_id) == ["CallAdmitted", "CallFailed"]


async def test_a_caller_that_leaves_before_the_answer(run: Running, caller: ByHand) -> None:
    """A caller that does not wait for the first byte lets the provider go as well."""
    run.provider.left.clear()
    run.provider.arrived.clear()
    asking = asyncio.create_task(caller.post({"model": "slow"}))
    await asyncio.wait_for(run.provider.arrived.wait(), 10)
    asking.cancel()
    await asyncio.wait_for(run.provider.left.wait(), 5)
    await run.broker.gateway.finish()
    kinds = [record["kind"] for record in await last_records(run, 2)]
    assert kinds == ["CallAdmitted", "CallFailed"]


async def test_no_database_session_is_held_while_a_provider_answers(run: Running, caller: ByHand) -> None:
    """While calls wait for a slow provider, not one connection to the database is taken."""

    async def idle() -> bool:  # the writer returns its own connection after the commit
        return run.broker.engine.pool.checkedout() == 0  # type: ignore[attr-defined,no-any-return]  # a queue pool, untyped

    async with asyncio.timeout(20):
        body = json.dumps({"model": "slow", "stream": True, "messages": MESSAGES})
        async with caller.http.stream("POST", caller.part.call, content=body, headers=caller.headers()) as answer:
            await anext(answer.aiter_raw())
            await until(idle)
            waiting = asyncio.create_task(caller.post({"model": "slow"}))
            run.provider.arrived.clear()
            await run.provider.arrived.wait()
            assert await idle()
            waiting.cancel()
            await asyncio.wait([waiting])
            request_id = answer.headers["broker-request-id"]
        assert await _ended(run, request_id) == ["CallAdmitted", "CallFailed"]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_provider_that_breaks_off(run: Running, caller: ByHand, stream: bool) -> None:
    """A stream that breaks off is never made to look whole: the caller's connection breaks too. Before it: 502."""
    if stream:
        with pytest.raises(httpx2.RemoteProtocolError):
            await caller.post({"model": "disconnect", "stream": True})
    else:
        assert (await caller.post({"model": "disconnect"})).status_code == 502
    await run.broker.gateway.finish()
    admitted, failed = await last_records(run, 2)
    assert (admitted["kind"], failed["kind"]) == ("CallAdmitted", "CallFailed")
    assert failed["request"]["failure"] == "outbound_broken"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_huge_chunk_passes(caller: ByHand, stream: bool) -> None:
    """A piece of more than a mebibyte passes whole; its usage is counted all the same."""
    answer = await caller.post({"model": "huge-chunk", "stream": stream, "stream_options": {"include_usage": True}})
    assert len(answer.content) > 1024 * 1024
    (_, completed) = await records(caller.run, answer.headers["broker-request-id"])
    assert completed["kind"] == "CallCompleted"
    assert (completed["request"]["bytes"], completed["request"]["output_tokens"]) == (len(answer.content), 1)


async def test_pieces_arrive_as_they_are_made(run: Running, caller: ByHand) -> None:
    """The first piece reaches the caller while the provider has not made the second."""
    body = json.dumps({"model": "slow", "stream": True, "messages": MESSAGES})
    async with caller.http.stream("POST", caller.part.call, content=body, headers=caller.headers()) as answer:
        first = await asyncio.wait_for(anext(answer.aiter_raw()), 10)
        request_id = answer.headers["broker-request-id"]
    assert await _ended(run, request_id) == ["CallAdmitted", "CallFailed"]
    assert first.startswith(caller.part.first)
    assert caller.part.last not in first


async def test_a_stream_that_says_that_it_failed(caller: ByHand) -> None:
    """An error in the middle of a stream reaches the caller, and the call is recorded as failed, however it ends."""
    answer = await caller.post({"model": "fails-midway", "stream": True})
    assert (answer.status_code, answer.content) == (200, caller.part.failed + caller.part.last)
    (_, failed) = await records(caller.run, answer.headers["broker-request-id"])
    assert (failed["kind"], failed["request"]["failure"]) == ("CallFailed", "provider_error")


async def test_a_caller_that_has_read_the_last_event_has_not_left(run: Running, caller: ByHand) -> None:
    """Clients close a stream once its last event is there: the call is completed, and the provider let go."""
    run.provider.left.clear()
    body = json.dumps({"model": "lingers", "stream": True, "messages": MESSAGES})
    async with caller.http.stream("POST", caller.part.call, content=body, headers=caller.headers()) as answer:
        assert await anext(answer.aiter_raw()) == caller.part.last
        request_id = answer.headers["broker-request-id"]
    await asyncio.wait_for(run.provider.left.wait(), 5)
    assert await _ended(run, request_id) == ["CallAdmitted", "CallCompleted"]


@pytest.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[ByHand]:
    """A caller of a broker that waits a fifth of a second for a provider."""
    async with running(tmp_path, gateway=Gateway(connect_timeout_s=0.2, first_byte_timeout_s=0.2)) as run:
        world = manifest(run)
        world["endpoints"]["elsewhere"] = {"base_url": f"http://127.0.0.1:{free_port()}/v1", "models": ["unreachable"]}
        world["policies"]["agents.cedar"] = RULES.replace("stand-in/*", "stand-in/* elsewhere/*")
        await run.apply(world)
        yield await by_hand(run)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_provider_that_does_not_answer_in_time(impatient: ByHand) -> None:
    """No first byte in time is 502 and a failed call; a stream that stalls later breaks the caller's connection."""
    answer = await impatient.post({"model": "slow"})
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "provider_failed"
    assert (await last_records(impatient.run, 1))[0]["request"]["failure"] == "outbound_timeout"
    with pytest.raises(httpx2.RemoteProtocolError):
        await impatient.post({"model": "slow", "stream": True})
    await impatient.run.broker.gateway.finish()
    failed = (await last_records(impatient.run, 1))[0]
    assert (failed["kind"], failed["request"]["failure"]) == ("CallFailed", "outbound_timeout")
    assert failed["request"]["status"] == 200


@pytest.mark.asyncio(loop_scope="function")
async def test_a_provider_that_cannot_be_reached(impatient: ByHand) -> None:
    """No connection, or none that the outgoing door allows, is 502; the caller is not told where the provider is."""
    answer = await impatient.post({"model": "unreachable"})
    assert answer.status_code == 502
    assert "127.0.0.1" not in answer.text
    failed = (await last_records(impatient.run, 1))[0]
    assert (failed["kind"], failed["request"]["failure"]) == ("CallFailed", "outbound_refused")


@pytest.mark.asyncio(loop_scope="function")
async def test_a_stopping_broker_records_the_end_of_its_calls(tmp_path: Path) -> None:
    """A broker that stops while a caller leaves records how the call ended before it records its own end."""
    async with StandInProvider(clock=SystemClock(), entropy=system_entropy) as provider:
        async with running(tmp_path, provider=provider) as run:
            await run.apply({**run.world(), "policies": {"agents.cedar": RULES}})
            caller = await by_hand(run)
            provider._behaviour = "slow"
            body = json.dumps({"model": MODEL, "stream": True, "messages": MESSAGES})
            request = caller.http.build_request("POST", CHAT, content=body, headers=caller.headers())
            answer = await caller.http.send(request, stream=True)
            await anext(answer.aiter_raw())
        async with running(tmp_path, provider=provider) as run:
            kinds = await run.kinds()
            assert kinds[-4:] == ["CallAdmitted", "CallFailed", "BrokerStopped", "BrokerStarted"]
            await run.check_log()


@pytest.mark.asyncio(loop_scope="function")
async def test_no_call_of_a_run_stays_open(tmp_path: Path) -> None:
    """However calls end, the database gone or not, each has its end once what is owed is settled: no job need look."""
    async with running(tmp_path) as run:
        await run.apply(manifest(run))
        caller = await by_hand(run)
        await asyncio.gather(*(caller.post({"model": MODEL}) for _ in range(3)))
        await asyncio.gather(*(_leave_in_the_middle(caller) for _ in range(3)))
        body = json.dumps({"model": "slow", "stream": True, "messages": MESSAGES})
        async with caller.http.stream("POST", caller.part.call, content=body, headers=caller.headers()) as answer:
            await anext(answer.aiter_raw())
            with locked(run.broker.engine):
                late = asyncio.create_task(caller.post({"model": MODEL}))
                await answer.aclose()
                assert (await late).status_code == 503
                await run.broker.gateway.finish()
                assert run.broker.audit.owed == 1
        assert await run.broker.audit.settle_owed() == 0

        async def none_open() -> bool:
            return await run.broker.read(trail.open_calls) == []

        await until(none_open)
        assert (await run.kinds()).count("CallAdmitted") >= 7
