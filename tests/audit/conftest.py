"""A database with the newest schema in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.databases import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The engine of the database that belongs to `tmp_path`."""
    opened = open_database(tmp_path, migrated=True)
    yield opened
    opened.dispose()
