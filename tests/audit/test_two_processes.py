"""Two integrators in processes of their own on one database: one wins by compare-and-swap, and there is one tree."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker.audit.log import Step
from broker.audit.tree import AuditTree, stored_head
from broker.db.engine import begin_to_write, reading
from broker.formats import checkpoint, merkle
from broker.formats.note import NoteSigner
from tests import databases
from tests.audit.held_integration import ORIGIN
from tests.audit.logs import SEALS, event, open_log, rows, signed_by

_ROOT = Path(__file__).parents[2]
_MANY = 300
"""Records that make a complete subtree, which two would store twice."""


class _Process:
    """One integration."""

    def __init__(self, folder: Path, key: Ed25519PrivateKey) -> None:
        url = databases.url_for(folder)
        given = [str(folder), key.private_bytes_raw().hex(), *([url] if url else [])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.audit.held_integration", *given],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def says(self) -> str:
        """Its next line; "" if it died."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        """Lets it swap what it signed."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ended(self) -> int:
        """Its exit code."""
        self._process.communicate()
        return self._process.wait()


def _append(engine: Engine, folder: Path) -> None:
    log = open_log(engine, folder)
    asyncio.run(log.record(Step((event(),) * _MANY)))
    log.close()


@pytest.mark.sqlite
def test_who_signed_an_older_tree_does_not_put_it_over_a_newer_one(engine: Engine, tmp_path: Path) -> None:
    """One process signs and waits, another signs more and swaps: the first loses, looks again, comes to the same."""
    key = Ed25519PrivateKey.generate()
    signer = NoteSigner(ORIGIN, key)
    _append(engine, tmp_path)
    AuditTree(engine, signed_by(signer), SEALS).integrate()
    _append(engine, tmp_path)
    slow = _Process(tmp_path, key)
    assert slow.says() == "signed"
    _append(engine, tmp_path)
    quick = _Process(tmp_path, key)
    assert quick.says() == "signed"
    quick.go_on()
    won = ast.literal_eval(quick.says())
    assert quick.ended() == 0
    slow.go_on()
    assert ast.literal_eval(slow.says()) == won
    assert slow.ended() == 0
    with reading(engine) as session:
        assert stored_head(session.connection()) == won
    head = checkpoint.parse_unverified(won)
    assert head.size == 3 * _MANY
    assert merkle.root_of([row["leaf"] for row in rows(engine)]) == head.root
    assert AuditTree(engine, signed_by(signer), SEALS).root(head.size) == head.root


@pytest.mark.postgresql
def test_who_lost_the_server_while_it_signed_swaps_nothing(engine: Engine, tmp_path: Path) -> None:
    """The server took its connections for gone, and another process took over: what it signed is put nowhere."""
    key = Ed25519PrivateKey.generate()
    _append(engine, tmp_path)
    AuditTree(engine, signed_by(NoteSigner(ORIGIN, key)), SEALS).integrate()
    _append(engine, tmp_path)
    engine.dispose()
    slow = _Process(tmp_path, key)
    assert slow.says() == "signed"
    with databases.server().session() as server:
        name = databases.server().database_for(tmp_path)
        server.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,))
    other = databases.open_database(tmp_path)
    try:
        begin_to_write(other, "another")
        _append(other, tmp_path)
        won = AuditTree(other, signed_by(NoteSigner(ORIGIN, key)), SEALS).integrate()
    finally:
        other.dispose()
    slow.go_on()  # the lock is free again: the fence is what stops it
    assert (slow.says(), slow.ended()) == ("", 1)
    after = databases.open_database(tmp_path)
    try:
        with reading(after) as session:
            assert stored_head(session.connection()) == won
    finally:
        after.dispose()
    assert won is not None
    assert checkpoint.parse_unverified(won).size == 3 * _MANY
