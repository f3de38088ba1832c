"""Instances: one row a running copy, made at its first credential, gone after its last; the records keep it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from sqlalchemy import Engine, event

from broker import jobs
from broker.db.engine import writer_of
from tests.build import es256, thumbprint
from tests.tokens.scene import Scene, claims_of, opened, restartable

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """One broker for the module."""
    async with opened(tmp_path_factory.mktemp("broker")) as found:
        yield found


async def rows(scene: Scene) -> dict[str, float]:
    """The stored instances: their thumbprints, and when they end."""
    found = await scene.run.broker.read(
        lambda s: list(s.connection().exec_driver_sql("SELECT thumbprint, ends_at FROM instances"))
    )
    return {str(name): float(ends) for name, ends in found}


class Writes:
    """Counts the statements that write instances while it is entered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = writer_of(engine)
        self.count = 0

    def __enter__(self) -> Writes:
        event.listen(self._engine, "before_cursor_execute", self._seen)
        return self

    def __exit__(self, *_: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._seen)

    def _seen(self, _conn: object, _cursor: object, statement: str, *_: object) -> None:
        self.count += "INSERT INTO instances" in statement


async def test_the_first_credential_makes_the_instance(scene: Scene) -> None:
    """Agent and key make the instance; its id stands in the token and in the record."""
    key = es256()
    answer = await scene.exchange(key=key)
    (found,) = [i for i in scene.run.broker.instances.of("nightly") if i.thumbprint == thumbprint(key)]
    assert (found.agent, found.attester, found.first_seen) == ("nightly", "platform", scene.clock.now())
    assert claims_of(answer)["instance"] == found.id
    assert (await scene.records(answer))[-1].groups["who"]["instance"] == found.id
    assert (await rows(scene))[thumbprint(key)] == found.ends_at >= claims_of(answer)["exp"]


async def test_another_key_is_another_instance(scene: Scene) -> None:
    """Two copies of one agent are told apart by their keys, and one key under two agents is two instances."""
    first, second = es256(), es256()
    ids = [claims_of(await scene.exchange(key=key))["instance"] for key in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]
    assert claims_of(await scene.credentials(key=first))["instance"] not in ids


async def test_a_renewal_writes_nothing(scene: Scene) -> None:
    """Renewing for half an hour costs no write of the instance; the next one moves its end."""
    key = es256()
    with Writes(scene.run.broker.engine) as writes:
        for _ in range(7):
            assert (await scene.exchange(key=key)).status_code == 200
            scene.clock.advance(300)
        assert writes.count == 1
        first_seen = scene.run.broker.instances.find("nightly", thumbprint(key))
        assert (await scene.exchange(key=key)).status_code == 200
        assert writes.count == 2
    moved = scene.run.broker.instances.find("nightly", thumbprint(key))
    assert first_seen is not None
    assert moved is not None
    assert moved.ends_at > first_seen.ends_at
    assert (moved.id, moved.first_seen) == (first_seen.id, first_seen.first_seen)


async def test_a_refused_exchange_makes_no_instance(scene: Scene) -> None:
    """Neither a refusal nor a stranger's request leaves an instance."""
    before = await rows(scene)
    await scene.exchange(scope="x")
    await scene.exchange("a.b.c")
    await scene.exchange(proof="")
    assert await rows(scene) == before


async def test_an_instance_is_pruned_after_its_last_credential(scene: Scene) -> None:
    """Its row and its place in memory go when no credential of it can be alive; the record of it stays."""
    key = es256()
    answer = await scene.exchange(key=key)
    ends_at = (await rows(scene))[thumbprint(key)]
    scene.clock.advance(ends_at - scene.clock.now() - 1)
    await jobs.prune(scene.run.broker)
    assert thumbprint(key) in await rows(scene)
    assert scene.run.broker.instances.find("nightly", thumbprint(key)) is not None
    scene.clock.advance(1)
    await jobs.prune(scene.run.broker)
    assert thumbprint(key) not in await rows(scene)
    assert scene.run.broker.instances.find("nightly", thumbprint(key)) is None
    assert (await scene.records(answer))[-1].groups["who"]["thumbprint"] == thumbprint(key)
    assert claims_of(await scene.exchange(key=key))["instance"] == claims_of(answer)["instance"]


async def test_an_instance_outlives_each_of_its_tokens(scene: Scene) -> None:
    """At the end of every token the instance is still known: none is pruned under a live credential."""
    key = es256()
    for _ in range(4):
        answer = await scene.exchange(key=key)
        scene.clock.advance(299)
        await jobs.prune(scene.run.broker)
        known = scene.run.broker.instances.find("nightly", thumbprint(key))
        assert known is not None
        assert known.ends_at >= claims_of(answer)["exp"]


async def test_an_operators_key_is_no_instance(scene: Scene) -> None:
    """Operators are people with keys, not running copies of an agent."""
    assert (await scene.admin.get("/api/v1/whoami")).status_code == 200
    assert scene.run.broker.instances.of("operator:admin") == []


async def test_pruning_goes_on_after_a_restart(tmp_path: Path) -> None:
    """Instances that ended while the broker was down are forgotten at its next pruning."""
    async with restartable(tmp_path) as again:
        async with again.opened() as scene:
            await scene.exchange()
        async with again.opened() as scene:
            assert len(scene.run.broker.instances.of("nightly")) == 1
            scene.clock.advance(4000)
            await jobs.prune(scene.run.broker)
            assert scene.run.broker.instances.of("nightly") == []
            assert await rows(scene) == {}
