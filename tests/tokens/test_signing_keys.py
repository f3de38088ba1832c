"""Token keys follow each other: published before use, verifying until the last token has ended, or ended at once."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from broker.db.engine import execute
from broker.errors import Conflict, NotFound, Unavailable
from broker.formats import jws
from broker.settings import Keys
from broker.tokens.signing_keys import JWKS_MAX_AGE_S, PUBLISHED_FOR_S
from tests.build import Running, call_headers, es256, running, token_request
from tests.fakes import FakeClock
from tests.faults import until
from tests.serving import http_client

_DAY = 86_400.0


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker with the usual world, whose time stands still."""
    async with running(tmp_path, clock=FakeClock()) as run:
        await run.apply(run.world())
        yield run


def _clock(run: Running) -> FakeClock:
    assert isinstance(run.clock, FakeClock)
    return run.clock


def _status(run: Running) -> dict[str, str]:
    return {life.kid: life.status for life in run.broker.signing_keys.lives}


async def _published(run: Running) -> set[str]:
    async with http_client(base_url=run.url) as client:
        answer = await client.get("/.well-known/jwks.json")
    assert answer.headers["cache-control"] == f"public, max-age={JWKS_MAX_AGE_S}"
    return {key["kid"] for key in answer.json()["keys"]}


class Holder:
    """An agent with one token."""

    def __init__(self, run: Running) -> None:
        self._run = run
        self._key = es256()
        self.token = ""

    async def exchange(self) -> str:
        """Gets a token; gives the id of the key that signed it."""
        answer = await token_request(self._run, key=self._key)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]
        return str(jws.unverified(self.token).header["kid"])

    async def lists(self) -> int:
        """Asks for the models with the token; gives the status."""
        headers = call_headers(self._run, self.token, self._key, "/openai/v1/models", "GET")
        async with http_client(base_url=self._run.url) as client:
            return (await client.get("/openai/v1/models", headers=headers)).status_code


async def _told(run: Running) -> list[tuple[str, str]]:
    """Kind and key of every record about token keys."""
    rows = await run.broker.read(
        lambda session: list(
            execute(session.connection(), "SELECT kind, groups FROM records WHERE kind LIKE 'Key%' ORDER BY idx")
        )
    )
    return [(kind, orjson.loads(orjson.loads(groups)["remedy"][1])["key"]) for kind, groups in rows]


async def test_a_key_is_published_before_it_signs_and_verifies_after_it_was_followed(run: Running) -> None:
    """At no moment does a token exist whose key was not published for longer than anybody may cache the key set."""
    keys, holder = run.broker.signing_keys, Holder(run)
    first = await holder.exchange()
    await keys.rotate("test", by="operator:admin", request_id="r")
    (second,) = await _published(run) - {first}
    assert await Holder(run).exchange() == first
    assert PUBLISHED_FOR_S > JWKS_MAX_AGE_S
    _clock(run).advance(PUBLISHED_FOR_S - 1)
    await keys.advance()
    assert await holder.exchange() == first
    _clock(run).advance(1)
    await keys.advance()
    assert await Holder(run).exchange() == second
    assert await holder.lists() == 200
    assert await _published(run) == {first, second}
    _clock(run).advance(run.broker.rules.lifetime_s + 59)  # a token may have been signed and be on its way
    await keys.advance()
    assert await _published(run) == {first, second}
    _clock(run).advance(1)
    await keys.advance()
    assert await _published(run) == {second}
    assert _status(run) == {first: "ended", second: "in use"}
    assert [path.name for path in (run.folder / "data" / "keys").glob("token-*")] == [f"token-{second}.pem"]
    expected = [("KeyInUse", first), ("KeyPublished", second), ("KeyInUse", second), ("KeyEnded", first)]
    assert await _told(run) == expected
    await run.check_log()


async def test_the_schedule_lets_keys_follow_each_other(run: Running) -> None:
    """After thirty days another key signs, without anybody doing anything, and no token was ever refused."""
    holder, kids, clock = Holder(run), [], _clock(run)
    for _ in range(24):
        kids.append(await holder.exchange())
        assert await holder.lists() == 200
        for _ in range(10):
            clock.advance(0.29 * _DAY)
            await run.broker.signing_keys.advance()
    assert 2 <= len(dict.fromkeys(kids)) <= 4
    assert kids == sorted(kids, key=list(dict.fromkeys(kids)).index)


async def test_without_a_schedule_a_key_stays(tmp_path: Path) -> None:
    """`keys.rotation_days = 0` leaves it to people."""
    async with running(tmp_path, clock=FakeClock(), keys=Keys(rotation_days=0)) as run:
        before = _status(run)
        _clock(run).advance(1000 * _DAY)
        await run.broker.signing_keys.advance()
        assert _status(run) == before
        assert run.broker.signing_keys.next_at() is None


async def test_one_key_at_a_time_is_on_its_way(run: Running) -> None:
    """A second wish while one is published changes nothing, and says so."""
    await run.broker.signing_keys.rotate("test", by="operator:admin", request_id="r")
    with pytest.raises(Conflict, match="published already"):
        await run.broker.signing_keys.rotate("test", by="operator:admin", request_id="r")
    assert sorted(_status(run).values()) == ["in use", "published"]


@pytest.mark.parametrize("published", [False, True])
async def test_a_stolen_key_ends_at_once_with_its_tokens(run: Running, published: bool) -> None:
    """Also a token that was verified before and is remembered; the next exchange is signed by another key."""
    keys, holder = run.broker.signing_keys, Holder(run)
    stolen = await holder.exchange()
    assert await holder.lists() == 200
    if published:
        await keys.rotate("test", by="operator:admin", request_id="r")
    await keys.contain(stolen, "the disk was stolen", by="operator:admin", request_id="r")
    assert await holder.lists() == 401
    assert stolen not in await _published(run)
    other = await holder.exchange()
    assert other != stolen
    assert await holder.lists() == 200
    assert await _told(run) == [
        ("KeyInUse", stolen), ("KeyPublished", other), ("KeyInUse", other), ("KeyEnded", stolen)
    ]  # fmt: skip
    assert not (run.folder / "data" / "keys" / f"token-{stolen}.pem").exists()
    with pytest.raises(Conflict, match="ended already"):
        await keys.contain(stolen, "again", by="operator:admin", request_id="r")


async def test_a_key_that_only_verifies_or_waits_can_be_stolen_too(run: Running) -> None:
    """It ends at once, and the one in use goes on."""
    keys, holder = run.broker.signing_keys, Holder(run)
    first = await holder.exchange()
    await keys.rotate("test", by="operator:admin", request_id="r")
    (waiting,) = [kid for kid, status in _status(run).items() if status == "published"]
    await keys.contain(waiting, "test", by="operator:admin", request_id="r")
    assert await _published(run) == {first}
    await keys.rotate("test", by="operator:admin", request_id="r")
    _clock(run).advance(PUBLISHED_FOR_S)
    first = await holder.exchange()
    await keys.advance()
    await keys.contain(first, "test", by="operator:admin", request_id="r")
    assert await holder.lists() == 401
    assert await holder.exchange() != first


async def test_all_keys_of_a_stolen_folder_end_at_once(run: Running) -> None:
    """Also the one that waits and the one that only verifies: what signs from now on was never in that folder."""
    keys, holder = run.broker.signing_keys, Holder(run)
    await holder.exchange()
    await keys.rotate("test", by="operator:admin", request_id="r")
    _clock(run).advance(PUBLISHED_FOR_S)
    await keys.advance()
    await holder.exchange()
    await keys.rotate("test", by="operator:admin", request_id="r")
    before = _status(run)
    assert sorted(before.values()) == ["in use", "published", "retiring"]
    await keys.contain("all", "a backup is in wrong hands", by="operator:admin", request_id="r")
    assert await holder.lists() == 401
    (fresh,) = await _published(run)
    assert fresh not in before
    assert await holder.exchange() == fresh
    assert [kind for kind, _ in await _told(run)].count("KeyEnded") == 3


async def test_a_key_that_nobody_knows_is_not_ended(run: Running) -> None:
    """A misspelt id does nothing."""
    with pytest.raises(NotFound):
        await run.broker.signing_keys.contain("x", "test", by="operator:admin", request_id="r")


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was published, in use or ended stays so; a key that no record speaks of is destroyed."""
    clock = FakeClock()
    async with running(tmp_path, clock=clock) as run:
        await run.broker.signing_keys.rotate("test", by="operator:admin", request_id="r")
        before = _status(run)
        run.broker.keys.make_token_key("ES256")  # a process that died before its step
        assert len(list((tmp_path / "data" / "keys").glob("token-*"))) == 3
    clock.advance(PUBLISHED_FOR_S)
    async with running(tmp_path, clock=clock) as run:
        assert _status(run) == before
        assert len(list((tmp_path / "data" / "keys").glob("token-*"))) == 2
        await run.broker.signing_keys.advance()
        after = _status(run)
        assert [before[kid] + " → " + after[kid] for kid in before] == ["in use → retiring", "published → in use"]
    async with running(tmp_path, clock=clock) as run:
        assert _status(run) == after
        assert run.broker.keys.current.kid == next(kid for kid, status in after.items() if status == "in use")


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
async def test_another_algorithm_comes_with_the_next_key(tmp_path: Path, algorithm: str) -> None:
    """Tokens of either kind are good in the overlap, and third parties find both keys."""
    clock, other = FakeClock(), {"ES256": "EdDSA", "EdDSA": "ES256"}[algorithm]
    async with running(tmp_path, clock=clock, keys=Keys.model_validate({"algorithm": algorithm})) as run:
        assert run.broker.keys.current.algorithm == algorithm
    async with running(tmp_path, clock=clock, keys=Keys.model_validate({"algorithm": other})) as again:
        await again.apply(again.world())
        holder = Holder(again)
        await again.broker.signing_keys.advance()
        clock.advance(PUBLISHED_FOR_S)
        await holder.exchange()
        await again.broker.signing_keys.advance()
        assert again.broker.keys.current.algorithm == other
        assert await holder.lists() == 200
        await holder.exchange()
        assert jws.unverified(holder.token).header["alg"] == other
        assert await holder.lists() == 200
        assert {key["alg"] for key in again.broker.keys.jwks()["keys"]} == {"ES256", "EdDSA"}


async def test_a_step_that_is_not_recorded_leaves_one_key_file_at_most(tmp_path: Path) -> None:
    """A database that takes nothing for a while: nothing is published, and the next try uses the key of the first."""
    full = False

    def probe(point: str) -> None:
        if full and point == "applied":
            raise OSError(28, "No space left on device")

    async with running(tmp_path, clock=FakeClock(), probe=probe) as run:
        before, full = await _published(run), True
        for _ in range(3):
            with pytest.raises(Unavailable):
                await run.broker.signing_keys.rotate("test", by="operator:admin", request_id="r")
        assert await _published(run) == before
        assert len(list((tmp_path / "data" / "keys").glob("token-*"))) == 2
        full = False
        await run.broker.audit.settle_owed()
        await run.broker.signing_keys.rotate("test", by="operator:admin", request_id="r")
        assert len(await _published(run)) == 2
        assert len(list((tmp_path / "data" / "keys").glob("token-*"))) == 2


async def test_a_step_that_lands_late_is_not_written_over(tmp_path: Path) -> None:
    """The next key comes into use in a commit that outlives its job, while an admin ends that key: one key signs."""
    hold, inside, go = threading.Event(), threading.Event(), threading.Event()

    def slow(point: str) -> None:
        if point == "applied" and hold.is_set():
            hold.clear()
            inside.set()
            go.wait()

    clock = FakeClock()
    async with running(tmp_path, clock=clock, probe=slow, storage={"commit_timeout_s": 0.5}) as run:
        keys = run.broker.signing_keys
        await keys.rotate("test", by="operator:admin", request_id="r")
        (waiting,) = [kid for kid, status in _status(run).items() if status == "published"]
        clock.advance(PUBLISHED_FOR_S)
        hold.set()
        with pytest.raises(Unavailable):
            await keys.advance()
        assert inside.is_set()
        ending = asyncio.create_task(keys.contain(waiting, "test", by="operator:admin", request_id="r"))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(Conflict, match="changed meanwhile"):
            await ending
        await until(lambda: run.broker.keys.current.kid == waiting)
        await keys.contain(waiting, "test", by="operator:admin", request_id="r")
        before = _status(run)
        assert sorted(before.values()) == ["ended", "in use", "retiring"]
    async with running(tmp_path, clock=clock) as again:
        assert _status(again) == before


async def test_a_key_that_lay_beside_a_stolen_one_never_signs(tmp_path: Path) -> None:
    """An earlier try left a key: another is made in place of the stolen one, and what was left is destroyed."""
    async with running(tmp_path, clock=FakeClock()) as run:
        left = run.broker.keys.make_token_key("ES256").kid
        stolen = run.broker.keys.current.kid
        await run.broker.signing_keys.contain(stolen, "test", by="operator:admin", request_id="r")
        now = run.broker.keys.current.kid
        assert now not in (left, stolen)
        assert [path.name for path in (tmp_path / "data" / "keys").glob("token-*")] == [f"token-{now}.pem"]


@pytest.mark.parametrize("log", [True, False])
async def test_no_room_for_a_key_is_said_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: bool
) -> None:
    """The disk takes no file: 503 like everything that cannot be recorded, and the keys are those of before."""

    def full(_source: object, _target: object) -> None:
        raise OSError(28, "No space left on device")

    async with running(tmp_path, clock=FakeClock()) as run:
        admin, folder = await run.operator(), tmp_path / "data" / "keys"
        before = sorted(folder.iterdir())
        with monkeypatch.context() as patch:
            patch.setattr(os, "link", full)
            assert (await admin.post("/api/v1/keys/rotate", json={"log": log})).status_code == 503
        assert sorted(folder.iterdir()) == before
        assert (await admin.post("/api/v1/keys/rotate", json={"log": log})).status_code == 200


async def test_what_was_not_confirmed_in_time_is_said_to_be_open(tmp_path: Path) -> None:
    """It may land after the answer: who asked is told to look before asking again, and finds that it did."""
    go, left = threading.Event(), 0

    def slow(point: str) -> None:
        nonlocal left
        if point == "applied" and left:
            left -= 1
            if not left:
                go.wait()

    async with running(tmp_path, clock=FakeClock(), probe=slow, storage={"commit_timeout_s": 0.2}) as run:
        admin, before = await run.operator(), len(_status(run))
        await admin.get("/api/v1/keys")  # the token is there
        left = 2  # the first is that of the proof
        answer = await admin.post("/api/v1/keys/rotate", json={})
        go.set()
        assert (answer.status_code, "may have taken effect" in answer.text) == (503, True), answer.text
        await until(lambda: len(_status(run)) == before + 1)
