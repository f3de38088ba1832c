"""A database with the newest schema in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker import migrations
from broker.db.engine import open_engine, sqlite_url


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The engine of the embedded database in `tmp_path`."""
    opened = open_engine(sqlite_url(tmp_path))
    migrations.upgrade(opened)
    yield opened
    opened.dispose()
