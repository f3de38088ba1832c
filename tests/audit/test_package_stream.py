"""A package is written while it is read: in pieces, whatever its size, and under one key from beginning to end."""

from __future__ import annotations

import asyncio
import hmac
import json
import tracemalloc
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine
from sqlmodel import Session

from broker.audit import package
from broker.audit.disclosure import WHOLE
from broker.audit.log import Step
from broker.audit.package import Scope
from broker.audit.tree import AuditTree
from broker.db.engine import reading
from broker.entropy import system_entropy
from broker.errors import NotFound, Unavailable
from broker.formats.note import NoteSigner
from broker.policy.decided import cut
from broker.policy.request import Entity
from tests.audit.logs import AT, SEALS, TAG_KEY, event, open_log, signed_by
from tests.audit.packages import unpacked, verified

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
_MANY = 2_000
_LARGE = 1024 * 1024


def _no_sets(_session: Session, hash: str) -> Mapping[str, str]:
    raise NotFound(hash)


def _filled(engine: Engine, folder: Path, count: int) -> AuditTree:
    log = open_log(engine, folder)

    async def fill() -> None:
        for start in range(0, count, 500):
            steps = (
                Step((event(str(n % 2), at=AT + n, what={"noise": system_entropy(1_000).hex()}),))
                for n in range(start, min(count, start + 500))
            )
            await asyncio.gather(*map(log.record, steps))

    asyncio.run(fill())
    log.close()
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    return tree


def _begun(engine: Engine, tree: AuditTree, scope: Scope) -> package.Package:
    tag = hmac.digest(TAG_KEY, scope.agent.encode(), "sha256")[:16].hex() if scope.agent else ""
    with reading(engine) as session:
        return package.begin(session, tree, scope, tag, WHOLE, now=AT)


def _written(engine: Engine, tree: AuditTree, scope: Scope) -> bytes:
    return b"".join(package.written(_begun(engine, tree, scope), engine, tree, _no_sets))


def test_a_long_period_is_written_in_little_memory(engine: Engine, tmp_path: Path) -> None:
    """Four megabytes of records pass through a few hundred kilobytes, and all of it is proved."""
    tree = _filled(engine, tmp_path, _MANY)
    _written(engine, tree, Scope(since_ms=int((AT + _MANY - 2) * 1000)))  # what is loaded once
    begun, file = _begun(engine, tree, Scope()), tmp_path / "package.zip"
    longest = 0
    tracemalloc.start()
    try:
        with file.open("wb") as out:
            for piece in package.written(begun, engine, tree, _no_sets):
                longest = max(longest, len(piece))
                out.write(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert file.stat().st_size > 2_000_000
    assert longest < 256 * 1024
    assert peak < 4_000_000
    code, said = verified(file, SIGNER.vkey)
    assert code == 0, said
    assert f"records     {_MANY} of the entries 0 to {_MANY - 1}" in said


def test_large_entities_are_held_a_few_at_once(engine: Engine, tmp_path: Path) -> None:
    """A page of their digests may stand for a gigabyte: no more is held than a few megabytes of it."""
    log = open_log(engine, tmp_path)
    slices = [cut(("Agent", f"a{n}"), ("B", "b"), [Entity(("Agent", "x" * _LARGE))]) for n in range(16)]
    for each in slices:
        asyncio.run(log.record(Step((event(decision={"entities": each.digest}, inputs=(each,)),))))
    log.close()
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    begun = _begun(engine, tree, Scope())
    del slices, each
    tracemalloc.start()
    try:
        size = sum(map(len, package.written(begun, engine, tree, _no_sets)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 16_000
    assert peak < 12 * _LARGE


@pytest.mark.parametrize(
    ("scope", "bounds"),
    [
        (Scope(), [0, 20]),
        (Scope(since_ms=int((AT + 5) * 1000)), [5, 20]),
        (Scope(since_ms=int((AT + 5) * 1000) + 1), [6, 20]),
        (Scope(until_ms=int((AT + 5) * 1000)), [0, 5]),
        (Scope(until_ms=int((AT + 5) * 1000) + 1), [0, 6]),
        (Scope(int((AT + 3) * 1000), int((AT + 9) * 1000), "1"), [3, 9]),
    ],
)
def test_a_period_ends_before_its_end(engine: Engine, tmp_path: Path, scope: Scope, bounds: list[int]) -> None:
    """The first record at its beginning is in it, the first at its end is not, to the millisecond."""
    tree = _filled(engine, tmp_path, 20)
    folder = unpacked(_written(engine, tree, scope), tmp_path / "package")
    assert json.loads((folder / "manifest.json").read_text())["range"] == bounds
    assert verified(folder, SIGNER.vkey)[0] == 0
    indices = [json.loads(line)["index"] for line in (folder / "records.jsonl").read_text().splitlines()]
    assert indices == [n for n in range(*bounds) if not scope.agent or str(n % 2) == scope.agent]


def test_what_no_checkpoint_covers_yet_waits(engine: Engine, tmp_path: Path) -> None:
    """A record behind the newest checkpoint is in no package, and a period of such alone is none."""
    tree = _filled(engine, tmp_path, 5)
    log = open_log(engine, tmp_path)
    asyncio.run(log.record(Step((event("late", at=AT + 99),))))
    log.close()
    folder = unpacked(_written(engine, tree, Scope()), tmp_path / "package")
    assert len((folder / "records.jsonl").read_text().splitlines()) == 5
    for scope in (Scope(agent="late"), Scope(since_ms=int((AT + 50) * 1000))):
        with pytest.raises(NotFound):
            _begun(engine, tree, scope)


def test_a_key_that_was_replaced_meanwhile_ends_it_in_the_middle(engine: Engine, tmp_path: Path) -> None:
    """The new key signs no manifest of the old one's tree: what came until then is no ZIP file."""
    tree = _filled(engine, tmp_path, 5)
    begun = _begun(engine, tree, Scope())
    other = AuditTree(engine, signed_by(NoteSigner(SIGNER.name, Ed25519PrivateKey.generate())), SEALS)
    pieces: list[bytes] = []
    with pytest.raises(Unavailable, match="replaced meanwhile"):
        pieces.extend(package.written(begun, engine, other, _no_sets))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(BytesIO(b"".join(pieces)))
