"""`kill -9` at every line between the sight of what is stored and what is published, in a real process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker.audit.tree import AuditTree
from broker.formats import checkpoint, merkle
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests import databases
from tests.audit.dying import Dying
from tests.audit.dying_integration import ORIGIN, RECORDS
from tests.audit.logs import SEALS, check_rows, rows, signed_by

_SIGKILL = 9
_FEWEST_STATEMENTS = 10
"""A step of an erasure runs at least so many statements: else the test looks elsewhere."""
_FEWEST_LINES = 30
"""An integration runs at least so many lines: else the test looks at the wrong functions."""


@pytest.fixture(scope="module")
def dying() -> Iterator[Dying]:
    """Runs the processes."""
    made = Dying("tests.audit.dying_integration")
    yield made
    made.close()


def test_killed_at_every_line(engine: Engine, tmp_path: Path, dying: Dying) -> None:
    """One after the other on one log: nothing durable is lost, the next process goes on by itself, and every
    checkpoint that anybody may have seen is continued by the last one."""
    engine.dispose()
    url = databases.url_for(tmp_path)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes_raw()
    seen: list[str] = []
    durable = line = 0
    while True:
        line += 1
        said = dying.run(folder=str(tmp_path), url=url, key=secret.hex(), line=line)
        assert said["lost"] is None, said
        assert said["durable"] == durable + RECORDS, said
        durable = said["durable"]
        if said["head"] is not None:  # published before this process: what is kept beside the database was no older
            assert checkpoint.parse_unverified(seen[-1]).size >= checkpoint.parse_unverified(said["head"]).size
        if (tmp_path / "checkpoint").exists():
            seen.append((tmp_path / "checkpoint").read_text())
        if said["signal"] == 0:
            break
        assert said["signal"] == _SIGKILL, said
    assert (said["code"], said["size"], said["lines"]) == (0, durable, line - 1)
    assert line > _FEWEST_LINES
    _check(tmp_path, NoteSigner(ORIGIN, key), seen)


@pytest.fixture(scope="module")
def erasing() -> Iterator[Dying]:
    """Runs the processes."""
    made = Dying("tests.audit.dying_erasure")
    yield made
    made.close()


def test_an_erasure_killed_before_any_statement(engine: Engine, tmp_path: Path, erasing: Dying) -> None:
    """All of a step or nothing of it, and its record with it; whoever begins again finds done what is done, and in the
    end nothing is left of what records no longer say."""
    engine.dispose()
    url, statement = databases.url_for(tmp_path), 0
    states: list[dict[str, Any]] = []
    while not states or states[-1]["signal"]:
        statement += 1
        states.append(erasing.run(folder=str(tmp_path), url=url, statement=statement))
        assert states[-1]["signal"] in (0, _SIGKILL), states[-1]
    seen = [tuple(said["found"]) for said in states]
    after_each_step = [(4, 2, 0), (2, 2, 1), (0, 2, 2), (0, 0, 3)]
    assert list(dict.fromkeys(seen)) == after_each_step, "whole records, inputs, records of erasures"
    assert states[-1]["left"] == [0, 0, 3]
    assert statement > 2 * _FEWEST_STATEMENTS


def _check(folder: Path, signer: NoteSigner, seen: list[str]) -> None:
    engine = databases.open_database(folder)
    try:
        check_rows(engine)
        leaves = [row["leaf"] for row in rows(engine)]
        head = AuditTree(engine, signed_by(signer), SEALS).head()
    finally:
        engine.dispose()
    trees: list[Checkpoint] = [
        checkpoint.open_signed(note, NoteVerifier.parse(signer.vkey)) for note in (*seen, head)
    ]  # fmt: skip
    assert [tree.size for tree in trees] == sorted(tree.size for tree in trees)
    assert trees[-1].size == len(leaves)
    for tree in trees:
        assert merkle.root_of(leaves[: tree.size]) == tree.root
