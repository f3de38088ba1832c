"""The database schema and its history: Alembic migrations, run at start by the one broker that holds the database.

Each revision expands or contracts, never both, and says in `works_with` the oldest revision whose code still works on
its schema. That stands in the database, so that an older broker can tell whether it may start on a newer schema: a new
version can be tried and taken back.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Field, SQLModel

from broker.db.engine import execute, writing
from broker.errors import ConfigurationError

log = logging.getLogger(__name__)


class CompatibilityRow(SQLModel, table=True):
    """The oldest revision whose code works with the schema as it is: one row."""

    __tablename__ = "compatibility"

    id: int = Field(primary_key=True)
    oldest: str


def upgrade(engine: Engine) -> None:
    """Brings the database to the newest schema, or leaves a newer one that works with this code as it is.

    Raises:
        ConfigurationError: the database was written by a newer broker that this one cannot follow, or is none of the
            broker's.
    """
    try:
        _upgrade(engine)
    except SQLAlchemyError as error:
        raise ConfigurationError(
            f"{engine.url.database}: cannot be brought to the newest schema: {getattr(error, 'orig', error)}. "
            "Restore a backup, or choose another storage.data_dir"
        ) from error


def _upgrade(engine: Engine) -> None:
    config = _config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with writing(engine, patient=True) as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None or current in known:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            return
        oldest = _oldest(connection)
    if oldest not in known:
        raise ConfigurationError(
            f"the database has the schema {current}, which this version does not know: a newer broker wrote it. "
            "Install that version again, or restore a backup"
        )
    log.warning("the database has the schema %s of a newer broker, which works with this version too", current)


def note_compatibility(connection: Connection, revision: str | None) -> None:
    """Writes down which code works with the schema, once `revision` is applied to it."""
    if revision is None or not inspect(connection).has_table("compatibility"):
        return
    script = ScriptDirectory.from_config(_config()).get_revision(revision)
    statement = (
        "INSERT INTO compatibility (id, oldest) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET oldest = excluded.oldest"
    )
    execute(connection, statement, (script.module.works_with,))


def _oldest(connection: Connection) -> str | None:
    if not inspect(connection).has_table("compatibility"):
        return None
    found = execute(connection, "SELECT oldest FROM compatibility WHERE id = 1").scalar()
    return None if found is None else str(found)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
