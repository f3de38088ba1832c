"""A rule or an agent that changes while an exchange is decided: what commits is what is true when it commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from broker.identity import agents
from broker.identity.agents import AgentRow
from tests.identity.test_enrolment import as_job, rule, rules, subject
from tests.tokens.scene import Gate, Scene, error_of, opened

pytestmark = pytest.mark.asyncio(loop_scope="module")

WIDE, NARROW = '@owner("t") @ceiling("stand-in/*")', '@owner("t") @ceiling("stand-in/stand-in-small")'


@dataclass
class Held:
    """A scene whose writing thread can be held."""

    scene: Scene
    gate: Gate


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def held(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Held]:
    """One broker for the module."""
    gate = Gate()
    async with opened(tmp_path_factory.mktemp("broker"), probe=gate.probe) as scene:
        yield Held(scene, gate)


async def changed(scene: Scene, manifest: dict[str, Any]) -> None:
    """Activates a change as one step, without the step that an API request takes for its proof."""
    broker = scene.run.broker
    await broker.changes.propose(manifest, by=broker.directory.operators["admin"], request_id="r")


async def stored(scene: Scene, name: str) -> agents.Agent | None:
    """The agent as the database has it."""
    row = await scene.run.broker.read(lambda session: session.get(AgentRow, name))
    return agents.load(row) if row is not None else None


async def test_a_rule_removed_in_flight_enrols_nobody(held: Held) -> None:
    """The exchange was decided under the rule, its removal committed first: no agent, and a refusal on record."""
    scene = held.scene
    await rules(scene, "gone", rule("gone", '@agent("gone")', subject("gone"), WIDE))
    async with held.gate.closed(scene):
        change = asyncio.create_task(changed(scene, {"policies": {"gone.cedar": None}}))
        await held.gate.queued(scene, 1)
        exchange = asyncio.create_task(as_job(scene, "gone"))
        await held.gate.queued(scene, 2)
    await change
    answer = await exchange
    assert error_of(answer) == (400, "invalid_request")
    assert [record.kind for record in await scene.records(answer)] == ["TokenRefused"]
    assert "gone" not in scene.run.broker.directory.agents
    assert await stored(scene, "gone") is None


async def test_a_rule_narrowed_in_flight_holds(held: Held) -> None:
    """The agent that is enrolled meanwhile has the narrower ceiling, in memory and in the database."""
    scene = held.scene
    await rules(scene, "narrowed", rule("narrowed", '@agent("narrowed")', subject("narrowed"), WIDE))
    async with held.gate.closed(scene):
        change = asyncio.create_task(
            changed(
                scene,
                {"policies": {"narrowed.cedar": rule("narrowed", '@agent("narrowed")', subject("narrowed"), NARROW)}},
            )
        )
        await held.gate.queued(scene, 1)
        exchange = asyncio.create_task(as_job(scene, "narrowed"))
        await held.gate.queued(scene, 2)
    await change
    answer = await exchange
    assert answer.status_code == 200
    issued = (await scene.records(answer))[-1]
    assert issued.groups["decision"]["set"] == scene.run.broker.policies.current.hash
    known = scene.run.broker.directory.agents["narrowed"]
    assert known.ceiling == {"stand-in/stand-in-small"}
    assert await stored(scene, "narrowed") == known


async def test_an_exchange_that_commits_first_is_followed_by_the_rule(held: Held) -> None:
    """The other order: the agent is enrolled under the old rule, and the change that follows narrows it."""
    scene = held.scene
    await rules(scene, "follow", rule("follow", '@agent("follow")', subject("follow"), WIDE))
    async with held.gate.closed(scene):
        exchange = asyncio.create_task(as_job(scene, "follow"))
        await held.gate.queued(scene, 1)
        change = asyncio.create_task(
            changed(
                scene, {"policies": {"follow.cedar": rule("follow", '@agent("follow")', subject("follow"), NARROW)}}
            )
        )
        await held.gate.queued(scene, 2)
    assert (await exchange).status_code == 200
    await change
    known = scene.run.broker.directory.agents["follow"]
    assert known.ceiling == {"stand-in/stand-in-small"}
    assert await stored(scene, "follow") == known


async def test_an_exchange_does_not_undo_a_containment_in_flight(held: Held) -> None:
    """An exchange that would rewrite the agent (its rule has another name now) leaves a suspension standing."""
    scene = held.scene
    await rules(scene, "undo", rule("undo", '@agent("undo")', subject("undo"), WIDE))
    assert (await as_job(scene, "undo")).status_code == 200
    await rules(scene, "undo", rule("undo-renamed", '@agent("undo")', subject("undo"), WIDE))
    async with held.gate.closed(scene):
        broker = scene.run.broker
        containment = asyncio.create_task(
            broker.changes.contain(
                "agents", "undo", "suspended", "test", by=broker.directory.operators["admin"], request_id="r"
            )
        )
        await held.gate.queued(scene, 1)
        exchange = asyncio.create_task(as_job(scene, "undo"))
        await held.gate.queued(scene, 2)
    await containment
    answer = await exchange
    assert error_of(answer) == (400, "invalid_target")
    known = scene.run.broker.directory.agents["undo"]
    assert known.status == "suspended"
    assert await stored(scene, "undo") == known


async def test_an_enrolment_that_nobody_received_locks_nobody_out(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The commit landed after its caller was told 503: the trail says so, and the next exchange goes on from there."""
    gate = Gate("applied")
    folder = tmp_path_factory.mktemp("late")
    async with opened(folder, probe=gate.probe, storage={"commit_timeout_s": 0.5}) as scene:
        await rules(scene, "late", rule("late", '@agent("late")', subject("late"), WIDE))
        gate.close()
        waiting = asyncio.create_task(as_job(scene, "late"))
        assert await asyncio.to_thread(gate.held.wait, 30)
        answer = await waiting
        assert answer.status_code == 503
        gate.open()
        later = await as_job(scene, "late")
        assert later.status_code == 200
        assert [record.kind for record in await scene.records(later)] == ["TokenIssued"]
        await scene.settled()
        kinds = [record.kind for record in await scene.records(answer)]
        assert kinds[:2] == ["AgentEnrolled", "TokenIssued"]
        assert "TokenAbandoned" in kinds
        known = scene.run.broker.directory.agents["late"]
        assert await stored(scene, "late") == known
