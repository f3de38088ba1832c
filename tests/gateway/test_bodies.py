"""The bodies of calls: bounded in all, and never in anybody else's way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.errors import Malformed, Unavailable
from broker.formats import canonical_json
from broker.gateway.bodies import MAX_AGENT_BYTES, MAX_BYTES, BodyRoom
from tests.build import MODEL, running


def test_one_agent_cannot_take_the_room_of_all() -> None:
    """An agent's share is a quarter; what another agent sends still has room, until all of it is taken."""
    room = BodyRoom()
    shares = [room.reserve(f"agent-{n}") for n in range(MAX_BYTES // MAX_AGENT_BYTES)]
    shares[0].take(MAX_AGENT_BYTES)
    with pytest.raises(Unavailable):
        room.reserve("agent-0").take(1)
    for share in shares[1:]:
        share.take(MAX_AGENT_BYTES)
    late = room.reserve("late")
    with pytest.raises(Unavailable):
        late.take(1)
    shares[0].give_back()
    shares[0].give_back()
    late.take(1)


@pytest.mark.parametrize("text", [b"[" + b"[]," * 200_000 + b"[]]", b"[" + b"1," * 2_100_000 + b"1]"])
def test_too_many_values_are_refused_before_they_are_read(text: bytes) -> None:
    """What a short text of many values would cost to read bears no relation to its length."""
    with pytest.raises(Malformed, match="too many values"):
        canonical_json.parse(text, max_bytes=len(text))


async def test_a_large_body_does_not_hold_up_the_loop() -> None:
    """A large body is read in a thread: the loop goes on meanwhile."""
    room, turns = BodyRoom(), 0

    def slow(body: bytes) -> int:
        return asyncio.run_coroutine_threadsafe(_counted(), loop).result(30)

    async def _counted() -> int:
        nonlocal turns
        turns += 1
        return turns

    loop = asyncio.get_running_loop()
    assert await room.read(b"x" * 70_000, slow) == 1


async def test_room_is_given_back_when_the_call_has_ended(tmp_path: Path) -> None:
    """Calls that were answered, refused or malformed hold nothing afterwards."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        agent = await run.agent()
        for body in ({"model": MODEL, "messages": []}, {"model": "unknown"}, {"models": ["x"], "model": MODEL}):
            await agent.post("/openai/v1/chat/completions", json=body)
        room = run.broker.gateway.bodies
        room.reserve("probe").take(MAX_AGENT_BYTES)
        assert room._total == MAX_AGENT_BYTES


@pytest.mark.parametrize("member", ["models", "fallbacks", "route", "provider", "api_base", "base_url", "api_key"])
async def test_no_member_names_another_model_or_address(tmp_path: Path, member: str) -> None:
    """Routers behind this wire format would follow such a member past the decision; it is refused and recorded."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        agent = await run.agent()
        answer = await agent.post("/openai/v1/chat/completions", json={"model": MODEL, "messages": [], member: ["x"]})
        assert answer.status_code == 400
        assert f"`{member}`" in answer.json()["error"]["message"]
        assert run.provider.received == []
        assert (await run.kinds())[-1] == "CallRefused"
