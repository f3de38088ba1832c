"""The log's key is replaced: on record, at one size of the tree, so that those who pinned the old one can go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker.audit.disclosure import WHOLE
from broker.audit.log import AuditLog, Step
from broker.audit.log_keys import LogKeys
from broker.audit.log_rotation import LogRotation
from broker.audit.published import PublishedCheckpoint
from broker.audit.trail import bundle, verify_bundle
from broker.audit.tree import AuditTree
from broker.db.engine import execute, reading, writing
from broker.entropy import system_entropy
from broker.errors import ConfigurationError, ProofInvalid, Unavailable
from broker.formats import checkpoint, note, succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from broker.keys import KeyRing
from tests.audit.logs import SEALS, event, open_log
from tests.build import Running, running
from tests.fakes import FakeClock
from tests.faults import until

_OVERLAP_S = 1000.0


class Log:
    """A log with its keys, over a database, and what a restart makes of it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.clock = FakeClock()
        self.audit = open_log(engine, folder)
        self.restart()

    def restart(self) -> None:
        """Everything that a process keeps in memory, read anew."""
        self.ring = KeyRing(self.folder / "keys", system_entropy, log_origin="broker.example/log")
        self.keys = LogKeys(self.ring.log_signers, self.ring.first_log_signer)
        self.tree = AuditTree(self.engine, self.keys, SEALS, PublishedCheckpoint(self.folder))
        self.rotation = self._rotation(self.audit)
        self.rotation.load()
        self.rotation.tidy()

    def _rotation(self, audit: AuditLog) -> LogRotation:
        return LogRotation(
            self.engine, self.ring, self.keys, self.tree, audit, self.clock, system_entropy, overlap_s=_OVERLAP_S
        )

    async def grow(self, count: int = 1) -> str:
        """Records some events; gives the checkpoint over them."""
        for _ in range(count):
            await self.audit.record(Step((event(),)))
        head = await asyncio.to_thread(self.tree.integrate)
        assert head is not None
        return head

    async def rotate(self, *, compromised: bool = False) -> str:
        """Replaces the key; gives what to pin from now on."""
        await self.rotation.rotate("test", by="operator:admin", request_id="r", compromised=compromised)
        return self.keys.vkey

    def opens(self, pinned: str, signed: str) -> int:
        """The size of a checkpoint, for somebody with a pinned key and the published statements."""
        key = succession.key_for(signed, NoteVerifier.parse(pinned), self.tree.successions())
        return checkpoint.open_signed(signed, key).size

    def files(self) -> list[str]:
        """The log's private keys on the disk."""
        return sorted(path.name for path in (self.folder / "keys").glob("log*.pem"))


@pytest.fixture
async def log(engine: Engine, tmp_path: Path) -> AsyncIterator[Log]:
    """A log of three entries."""
    made = Log(engine, tmp_path)
    await made.grow(3)
    yield made
    made.audit.close()


async def test_a_head_that_nobody_signed_is_not_handed_over(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put in place of the head just before, it gets no signature of the new key, and no statement speaks of it."""
    whole, vkey = log.tree.integrate, log.keys.vkey

    def integrate() -> str | None:
        head = whole()
        tree = checkpoint.parse_unverified(head or "")
        with writing(log.engine) as connection:
            other = checkpoint.sign(Checkpoint(tree.origin, tree.size, bytes(32)), stranger)
            execute(connection, "UPDATE log_head SET note = ?", (other,))
        return head

    stranger = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
    monkeypatch.setattr(log.tree, "integrate", integrate)
    with pytest.raises(ProofInvalid, match="not signed by the log's key"):
        await log.rotate()
    assert (log.tree.successions(), log.keys.vkey) == ((), vkey)


def _signers(signed: str) -> set[bytes]:
    return {key_id for _, key_id in note.unverified_signers(signed)}


def _id(vkey: str) -> bytes:
    return NoteVerifier.parse(vkey).key_id


async def test_both_keys_sign_in_the_overlap_and_then_the_new_one(log: Log) -> None:
    """Who pinned either key verifies what comes; afterwards the old key is destroyed, and statements lead on."""
    old = log.keys.vkey
    new = await log.rotate()
    assert new != old
    head = await log.grow()
    assert _signers(head) == {_id(old), _id(new)}
    checkpoint.open_signed(head, NoteVerifier.parse(old))
    log.clock.advance(_OVERLAP_S - 1)
    await log.rotation.advance()
    assert _signers(await log.grow()) == {_id(old), _id(new)}
    log.clock.advance(1)
    await log.rotation.advance()
    head = await log.grow()
    assert _signers(head) == {_id(new)}
    assert log.opens(old, head) == log.opens(new, head)
    assert log.files() == [f"log-{_id(new).hex()}.pem"]


async def test_the_head_is_the_new_keys_from_that_moment(log: Log) -> None:
    """No checkpoint is left that only the old key signed, not even the one of the handover."""
    old = log.keys.vkey
    before = log.tree.head()
    new = await log.rotate()
    assert _signers(before) == {_id(old)}
    assert _signers(log.tree.head()) == {_id(old), _id(new)}
    (statement,) = log.tree.successions()
    said = succession.open_signed(statement)
    handed = checkpoint.parse_unverified(log.tree.head())
    assert (said.old, said.new, said.size, said.root) == (old, new, handed.size, handed.root)


async def test_a_stolen_key_signs_nothing_any_more(log: Log) -> None:
    """No overlap: it is destroyed at once, and so are those that signed beside it; what it signs later is not taken."""
    first = log.keys.vkey
    await log.rotate()
    stolen, signer = log.keys.vkey, log.ring.log_signers[log.keys.vkey]
    new = await log.rotate(compromised=True)
    assert log.files() == [f"log-{_id(new).hex()}.pem"]
    head = await log.grow()
    assert _signers(head) == {_id(new)}
    assert log.opens(first, head) == log.opens(stolen, head) == checkpoint.parse_unverified(head).size
    forged = checkpoint.sign(checkpoint.parse_unverified(head), signer)
    for pinned in (first, stolen, new):
        with pytest.raises(ProofInvalid):
            log.opens(pinned, forged)


async def test_old_checkpoints_and_bundles_verify_under_the_new_key(log: Log) -> None:
    """An auditor who pins the new key verifies what was kept from before, and the other way round."""
    old, before = log.keys.vkey, log.tree.head()
    with reading(log.engine) as session:
        earlier = bundle(session, log.tree, 1, WHOLE)
    new = await log.rotate(compromised=True)
    await log.grow(5)
    assert log.opens(new, before) == 3
    with reading(log.engine) as session:
        later = bundle(session, log.tree, 1, WHOLE)
    statements = log.tree.successions()
    assert verify_bundle(later, NoteVerifier.parse(old)).index == 1
    assert verify_bundle(later, NoteVerifier.parse(new)).index == 1
    assert verify_bundle(earlier, NoteVerifier.parse(new), statements).index == 1
    with pytest.raises(ProofInvalid):
        verify_bundle(earlier, NoteVerifier.parse(new))
    stripped = orjson.dumps({k: v for k, v in orjson.loads(later).items() if k != "successions"})
    with pytest.raises(ProofInvalid):
        verify_bundle(stripped, NoteVerifier.parse(old))


async def test_a_restart_goes_on_under_the_new_key(log: Log) -> None:
    """The database says which key signs; a key that was made and never recorded signs nothing."""
    first = log.keys.vkey
    new = await log.rotate()
    log.ring.make_log_key()  # a process that died before its step
    assert len(log.files()) == 3
    log.restart()
    assert len(log.files()) == 2
    log.tree.check_key()
    assert log.tree.lost() is None
    assert log.keys.vkey == new
    assert _signers(await log.grow()) == {_id(first), _id(new)}
    assert log.tree.lost() is None


async def test_a_key_that_ended_is_destroyed_at_the_next_start_if_need_be(log: Log) -> None:
    """Died between the record and the file: the file goes when it starts again."""
    new = await log.rotate()
    pem = (log.folder / "keys" / "log.pem").read_bytes()
    log.clock.advance(_OVERLAP_S)
    await log.rotation.advance()
    (log.folder / "keys" / "log.pem").write_bytes(pem)
    (log.folder / "keys" / "log.pem").chmod(0o600)
    log.restart()
    assert log.files() == [f"log-{_id(new).hex()}.pem"]


async def test_a_missing_key_of_the_log_ends_the_start(log: Log) -> None:
    """Neither the older key nor a new one takes its place."""
    new = await log.rotate()
    (log.folder / "keys" / f"log-{_id(new).hex()}.pem").unlink()
    with pytest.raises(ConfigurationError, match=f"keys/log-{_id(new).hex()}.pem .*restore it from the backup"):
        log.restart()


async def test_integration_meanwhile_never_signs_with_the_old_key_alone(log: Log) -> None:
    """Records come and the tree is integrated by others while keys follow each other: every head can be followed."""
    heads, done = [log.tree.head()], False

    async def integrate() -> None:
        while not done:
            heads.append(await log.grow())

    busy = [asyncio.create_task(integrate()) for _ in range(3)]
    keys = [log.keys.vkey, *[await log.rotate() for _ in range(5)]]
    done = True
    await asyncio.gather(*busy)
    sizes = [succession.open_signed(statement).size for statement in log.tree.successions()]
    assert sizes == sorted(sizes)
    for head in heads:
        size = checkpoint.parse_unverified(head).size
        for place, (key, last) in enumerate(zip(keys, sizes, strict=False)):
            if _id(key) in _signers(head) and size > last:
                assert _id(keys[place + 1]) in _signers(head)
        assert {log.opens(key, head) for key in keys} == {size}


async def test_a_tree_that_was_signed_before_the_handover_is_not_the_head_after_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Integration signs with the old key alone, and waits for the disk while the key is followed: it signs again."""
    waits, go, replace = threading.Event(), threading.Event(), Path.replace
    heads: list[str] = []

    def slow(path: Path, target: Path) -> Path:
        if path.name == "checkpoint.partial":
            heads.append(log.tree.head())  # as it is while another is signed
            if not waits.is_set():
                waits.set()
                go.wait()
        return replace(path, target)

    await log.audit.record(Step((event(),)))
    monkeypatch.setattr(Path, "replace", slow)
    integrating = asyncio.create_task(asyncio.to_thread(log.tree.integrate))
    await until(waits.is_set)
    # The tree was brought up to date just before the event came, so this begins with the head that integration saw.
    await log.rotation._follow(log.ring.make_log_key(), "test", by="operator:admin", request_id="r", compromised=True)
    go.set()
    await integrating
    assert len(heads) == 2
    assert [_signers(head) for head in (heads[1], log.tree.head())] == [{_id(log.keys.vkey)}] * 2


async def test_what_is_not_recorded_changes_nothing(log: Log, engine: Engine) -> None:
    """The database does not take it: the old key signs on, alone, also after a restart."""
    old = log.keys.vkey
    failing = open_log(engine, log.folder, timeout_s=0.5, probe=_full)
    with pytest.raises(Unavailable):
        await log._rotation(failing).rotate("test", by="operator:admin", request_id="r", compromised=True)
    failing.close()
    assert log.keys.vkey == old
    assert log.tree.successions() == ()
    assert _signers(await log.grow()) == {_id(old)}
    log.restart()
    assert log.keys.vkey == old


async def test_what_tries_leave_that_fail_signs_nothing_and_goes_at_the_next_start(log: Log, engine: Engine) -> None:
    """A try whose step may yet land keeps its key, and the next one makes another; nothing of it stays for good."""
    failing = open_log(engine, log.folder, timeout_s=0.5, probe=_full)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await log._rotation(failing).rotate("test", by="operator:admin", request_id="r", compromised=False)
    failing.close()
    left = set(log.ring.log_signers) - {log.keys.vkey}
    assert len(log.files()) == 1 + len(left) == 4
    new = await log.rotate(compromised=True)
    assert new not in left
    log.restart()
    assert log.files() == [f"log-{_id(new).hex()}.pem"]


async def test_a_succession_that_lands_late_is_followed_by_another(log: Log, engine: Engine) -> None:
    """A try whose commit outlives its caller, and another meanwhile: no key follows itself, and none is missing."""
    hold, inside, go = threading.Event(), threading.Event(), threading.Event()

    def slow(point: str) -> None:
        if point == "applied" and hold.is_set():
            hold.clear()
            inside.set()
            go.wait()

    audit = open_log(engine, log.folder, timeout_s=0.2, probe=slow)
    rotation = log._rotation(audit)
    hold.set()
    with pytest.raises(Unavailable):
        await rotation.rotate("first", by="operator:admin", request_id="r", compromised=False)
    assert inside.is_set()
    second = asyncio.create_task(rotation.rotate("second", by="operator:admin", request_id="r", compromised=False))
    await asyncio.sleep(0)
    go.set()
    await second
    audit.close()
    said = [succession.open_signed(statement) for statement in log.tree.successions()]
    assert [each.old for each in said][1:] == [each.new for each in said][:-1]
    assert len({said[0].old, *(each.new for each in said)}) == len(said) + 1 == 3
    log.restart()
    assert log.keys.vkey == said[-1].new


def _full(point: str) -> None:
    if point == "applied":
        raise OSError(28, "No space left on device")


async def test_over_http_the_record_and_the_statements_are_there(tmp_path: Path) -> None:
    """An admin replaces it, the public document leads from the old key to the new one, and the whole log verifies."""
    async with running(tmp_path, clock=FakeClock()) as run:
        old, admin = run.broker.log_key, await run.operator()
        await run.check_log()
        answer = await admin.post("/api/v1/keys/rotate", json={"log": True, "why": "a new year"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["log"] == run.broker.log_key != old
        await _check_document(run, old)
        await run.check_log()
        refused = await admin.post("/api/v1/keys/rotate", json={"log": True, "compromised": old})
        assert refused.status_code == 400
        done = await admin.post("/api/v1/keys/rotate", json={"log": True, "compromised": run.broker.log_key})
        assert done.status_code == 200, done.text
        await _check_document(run, old)
        await run.check_log()
        kinds = await run.kinds()
        assert kinds.count("LogKeyRotated") == 2
    async with running(tmp_path, clock=FakeClock()) as again:
        again.checkpoint = run.checkpoint
        await again.check_log()


async def _check_document(run: Running, old: str) -> None:
    async with httpx2.AsyncClient(base_url=run.url) as client:
        document = (await client.get("/log/keys")).json()
        head = (await client.get("/log/checkpoint")).text
    assert document["key"] == run.broker.log_key
    key = succession.key_for(head, NoteVerifier.parse(old), document["successions"])
    assert checkpoint.open_signed(head, key).origin == run.broker.keys.log_origin
