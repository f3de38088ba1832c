"""A database that a state machine opens, closes and opens again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy import Engine

from broker import migrations
from broker.db.engine import open_engine
from broker.db.sqlite import sqlite_url
from tests.fuzz.outcome import effort


def steps(examples: int, count: int) -> settings:
    """How many runs of a machine, as a share of the profile's examples, and how many steps in each."""
    return settings(effort(examples), stateful_step_count=count)


class Stored(RuleBasedStateMachine):
    """A machine over a real database with the newest schema, in a folder of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        self.engine: Engine = open_engine(sqlite_url(Path(self._folder.name)))
        migrations.upgrade(self.engine)

    def reopen(self) -> None:
        """Closes the database and opens it again, as a restarted process does."""
        self.engine.dispose()
        self.engine = open_engine(sqlite_url(Path(self._folder.name)))

    def teardown(self) -> None:
        """Nothing is left behind."""
        self.engine.dispose()
        self._folder.cleanup()
