"""When tokens are asked for: once for many, early, and never at the cost of a request that could have gone on."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import httpx2
import pytest

from broker.client import BrokerAuth, BrokerUnreachable, TokenRefused
from tests.client.conftest import MakeCaller
from tests.client.stand_in_broker import EVIDENCE, StandInBroker
from tests.fakes import FakeClock

REFUSAL = (400, {"error": "invalid_target", "error_description": "not for you"})
TROUBLE = (503, {"error": "temporarily_unavailable"})


async def _burst(one: Any, url: str, number: int) -> list[Any]:
    """As many requests at once; those that block start together."""
    if not one.blocks:
        return await asyncio.gather(*(one.send(url) for _ in range(number)), return_exceptions=True)
    together = threading.Barrier(number)
    outcomes: list[Any] = []

    def send() -> None:
        together.wait()
        try:
            outcomes.append(one.client.post(url))
        except Exception as error:  # noqa: BLE001  the outcome is what the test looks at
            outcomes.append(error)

    threads = [threading.Thread(target=send) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    return outcomes


async def test_a_burst_asks_for_one_token(caller: MakeCaller, broker: StandInBroker) -> None:
    """However many threads or tasks begin at once, one of them asks and all use what it gets."""
    broker.faults.hold = asyncio.Event()
    one = caller()
    burst = asyncio.create_task(_burst(one, broker.url, 16))
    await broker.arrived.wait()
    for _ in range(20):
        await asyncio.sleep(0.001)
    broker.faults.hold.set()
    assert [response.status_code for response in await burst] == [200] * 16
    assert len(broker.tokens) == 1


async def test_a_burst_shares_a_refusal(caller: MakeCaller, broker: StandInBroker) -> None:
    """Those who waited for a token that was refused are refused with it, and do not each ask again."""
    broker.faults.hold = asyncio.Event()
    broker.faults.token.append(REFUSAL)
    one = caller()
    burst = asyncio.create_task(_burst(one, broker.url, 8))
    await broker.arrived.wait()
    for _ in range(20):
        await asyncio.sleep(0.001)
    broker.faults.hold.set()
    outcomes = await burst
    assert {type(outcome) for outcome in outcomes} == {TokenRefused}
    assert len(broker.tokens) == 1


async def test_a_later_request_asks_again_after_a_refusal(caller: MakeCaller, broker: StandInBroker) -> None:
    """A refusal is for those who waited for it; who comes later gets a new chance."""
    broker.faults.token.append(REFUSAL)
    one = caller()
    with pytest.raises(TokenRefused):
        await one.send(broker.url)
    assert (await one.send(broker.url)).status_code == 200


async def test_a_token_is_renewed_at_two_thirds_of_its_life(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock
) -> None:
    """Not a second before, and then for good."""
    one = caller()
    for advance, tokens in ((0, 1), (199, 1), (1, 2), (199, 2), (1, 3)):
        clock.advance(advance)
        assert (await one.send(broker.url)).status_code == 200
        assert len(broker.tokens) == tokens
    assert broker.calls[-1].headers["authorization"] == f"DPoP {broker.issued()[-1]}"


@pytest.mark.parametrize("trouble", [REFUSAL, TROUBLE, (200, "<html>"), (429, {"error": "slow_down"})])
async def test_an_early_renewal_that_fails_costs_nothing(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock, trouble: tuple[int, object]
) -> None:
    """While the old token is good the request goes on with it, and the next try comes after a third of what is left."""
    one = caller()
    await one.send(broker.url)
    clock.advance(200)
    broker.faults.token.append(trouble)
    for advance, tokens in ((0, 2), (33, 2), (1, 3)):
        clock.advance(advance)
        assert (await one.send(broker.url)).status_code == 200
        assert len(broker.tokens) == tokens


async def test_a_broken_early_renewal_is_not_repeated_by_the_next_request(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock
) -> None:
    """If the connection breaks under a renewal, that request has the library's error; the next uses the old token."""
    one = caller()
    await one.send(broker.url)
    clock.advance(200)
    broker.faults.cut = True
    with pytest.raises((httpx.TransportError, httpx2.TransportError)):
        await one.send(broker.url)
    assert (await one.send(broker.url)).status_code == 200
    assert len(broker.tokens) == 2


async def test_others_go_on_while_one_renews_early(caller: MakeCaller, broker: StandInBroker, clock: FakeClock) -> None:
    """A slow token endpoint holds up the one request that renews, and no other."""
    one = caller()
    await one.send(broker.url)
    clock.advance(200)
    broker.faults.hold = asyncio.Event()
    broker.arrived.clear()
    renewing = asyncio.create_task(one.send(broker.url))
    await broker.arrived.wait()
    for _ in range(3):
        assert (await asyncio.wait_for(one.send(broker.url), 5)).status_code == 200
    assert not renewing.done()
    broker.faults.hold.set()
    assert (await renewing).status_code == 200
    assert len(broker.tokens) == 2


async def test_a_token_is_dead_at_its_end(caller: MakeCaller, broker: StandInBroker, clock: FakeClock) -> None:
    """One second before its end a failed renewal is forgiven; at its end there is no token to go on with."""
    one = caller()
    await one.send(broker.url)
    broker.faults.token.extend([TROUBLE, TROUBLE])
    clock.advance(299)
    assert (await one.send(broker.url)).status_code == 200
    clock.advance(1)
    with pytest.raises(BrokerUnreachable, match="503"):
        await one.send(broker.url)
    assert len(broker.calls) == 2


async def test_the_wall_clock_does_not_shorten_a_token(
    caller: MakeCaller, broker: StandInBroker, clock: FakeClock
) -> None:
    """A token's life is measured on the monotonic clock: setting the time neither kills nor prolongs it."""
    one = caller()
    await one.send(broker.url)
    clock.jump(86_400)
    assert (await one.send(broker.url)).status_code == 200
    assert len(broker.tokens) == 1


async def test_a_nonce_for_tokens_is_tried_once(caller: MakeCaller, broker: StandInBroker) -> None:
    """A token endpoint that takes none of its own nonces is given up after the second try."""
    broker.faults.fickle = True
    with pytest.raises(BrokerUnreachable, match="nonces"):
        await caller().send(broker.url)
    assert [asked.nonce for asked in broker.tokens] == [None, "token-1"]


async def test_who_waits_for_one_that_gave_up_asks_itself(broker: StandInBroker, clock: FakeClock) -> None:
    """If the task that asks is cancelled, the next in line asks; nobody waits for ever."""
    broker.faults.hold = asyncio.Event()
    auth = BrokerAuth(broker.origin, lambda: EVIDENCE, clock=clock)
    async with httpx2.AsyncClient(auth=auth) as client:
        first = asyncio.create_task(client.post(broker.url))
        await broker.arrived.wait()
        second = asyncio.create_task(client.post(broker.url))
        for _ in range(20):
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        broker.faults.hold.set()
        assert (await asyncio.wait_for(second, 5)).status_code == 200
    assert len(broker.tokens) == 2


async def test_an_endpoint_that_breaks_every_connection_is_not_asked_by_each(
    caller: MakeCaller, broker: StandInBroker
) -> None:
    """Of many that wait, a few meet the broken connection themselves and the others are told, not made to queue."""
    broker.faults.cut = True
    outcomes = await _burst(caller(), broker.url, 12)
    assert all(
        isinstance(outcome, BrokerUnreachable | httpx.TransportError | httpx2.TransportError) for outcome in outcomes
    )
    assert any(isinstance(outcome, BrokerUnreachable) for outcome in outcomes)
    assert len(broker.tokens) < 12


async def test_one_object_serves_threads_and_several_event_loops(broker: StandInBroker, clock: FakeClock) -> None:
    """The same auth works from the main loop, from another loop in a thread, and from a blocking client."""
    auth = BrokerAuth(broker.origin, lambda: EVIDENCE, clock=clock)

    async def send() -> int:
        async with httpx2.AsyncClient(auth=auth) as client:
            responses = await asyncio.gather(*(client.post(broker.url) for _ in range(4)))
            return {response.status_code for response in responses}.pop()

    def send_blocking() -> int:
        with httpx2.Client(auth=auth) as client:
            return client.post(broker.url).status_code

    outcomes = await asyncio.gather(send(), asyncio.to_thread(asyncio.run, send()), asyncio.to_thread(send_blocking))
    assert outcomes == (200, 200, 200) or list(outcomes) == [200, 200, 200]
    assert {asked.jkt for asked in broker.tokens} == {broker.tokens[0].jkt}
    assert len(broker.tokens) <= 3
