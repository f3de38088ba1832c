"""A database with the newest schema in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.audit.logs import signed_by
from tests.audit.stored_log import SIZE, Stored
from tests.audit.test_tree import SIGNER
from tests.databases import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The engine of the database that belongs to `tmp_path`."""
    opened = open_database(tmp_path, migrated=True)
    yield opened
    opened.dispose()


@pytest.fixture
async def stored(engine: Engine, tmp_path: Path) -> Stored:
    """A log that all checks find good."""
    made = Stored(engine, tmp_path, signed_by(SIGNER))
    await made.append(SIZE)
    made.kept = made.tree.integrate() or ""
    return made
