"""The database schema and its history: Alembic migrations, run at start under the lock on the data folder."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from broker.errors import ConfigurationError


def upgrade(engine: Engine) -> None:
    """Brings the database to the newest schema.

    Raises:
        ConfigurationError: the database was written by a newer broker, or is none of the broker's.
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
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise ConfigurationError(
            f"the database has the schema {current}, which this version does not know: a newer broker wrote it. "
            "Install that version again, or restore a backup"
        )
    with engine.connect().execution_options(broker_writes=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config
