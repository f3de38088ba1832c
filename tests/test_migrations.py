"""The schema and its history: from nothing, again, back and forth; the models and the migrations say the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect
from sqlmodel import SQLModel

import broker.assembly  # noqa: F401  imports every table
from broker import migrations
from broker.db.engine import open_engine, reading, sqlite_url, writing
from broker.errors import ConfigurationError


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    opened = open_engine(sqlite_url(tmp_path))
    yield opened
    opened.dispose()


def _schema(engine: Engine) -> dict[str, object]:
    with engine.connect() as connection:
        rows = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
        return {str(name): sql for name, sql in rows}


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.attributes["connection"] = connection
    return config


def test_an_empty_database_gets_every_table(engine: Engine) -> None:
    """From nothing to the newest schema: all tables of all models, at the newest revision."""
    migrations.upgrade(engine)
    assert set(inspect(engine).get_table_names()) == {*SQLModel.metadata.tables, "alembic_version"}
    assert _revision(engine) == ScriptDirectory.from_config(_config(None)).get_current_head()


def test_models_and_migrations_agree(engine: Engine) -> None:
    """A column, type, index or constraint that stands in one and not in the other is found here."""
    migrations.upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, SQLModel.metadata) == []


def test_a_missing_column_would_be_found(engine: Engine) -> None:
    """The comparison above is not blind."""
    migrations.upgrade(engine)
    with writing(engine) as connection:
        connection.exec_driver_sql("ALTER TABLE claims DROP COLUMN value")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert len(compare_metadata(context, SQLModel.metadata)) == 1


def test_a_second_start_changes_nothing(engine: Engine) -> None:
    """An up-to-date database is left as it is, with its data."""
    migrations.upgrade(engine)
    with writing(engine) as connection:
        connection.exec_driver_sql("INSERT INTO claims VALUES ('a', '', 1.0)")
    before = _schema(engine)
    migrations.upgrade(engine)
    assert _schema(engine) == before
    with reading(engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM claims").scalar() == 1


def test_there_and_back_again(engine: Engine) -> None:
    """Every migration takes back what it did, and can be applied again to the same schema."""
    migrations.upgrade(engine)
    before = _schema(engine)
    with writing(engine) as connection:
        command.downgrade(_config(connection), "base")
    assert set(inspect(engine).get_table_names()) == {"alembic_version"}
    migrations.upgrade(engine)
    assert _schema(engine) == before


def test_a_newer_database_is_refused(engine: Engine) -> None:
    """What a newer broker wrote is not touched, and the text says what to do."""
    migrations.upgrade(engine)
    with writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    before = _schema(engine)
    with pytest.raises(ConfigurationError, match=r"schema 9999, .*newer broker"):
        migrations.upgrade(engine)
    assert _schema(engine) == before
    assert _revision(engine) == "9999"


def test_a_migration_that_fails_leaves_nothing(engine: Engine) -> None:
    """Schema changes are one transaction: when one fails half way, the database is as it was."""
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE subtrees (other TEXT)")  # the last table of the first migration
    before = _schema(engine)
    with pytest.raises(ConfigurationError, match="newest schema: table subtrees already exists"):
        migrations.upgrade(engine)
    assert _schema(engine) == before


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Something else in the database's place ends the start with the path and a text."""
    (tmp_path / "broker.db").write_bytes(b"this is no database, but it is long enough to be mistaken for one" * 100)
    engine = open_engine(sqlite_url(tmp_path))
    with pytest.raises(ConfigurationError, match=r"broker\.db: cannot be .*file is not a database"):
        migrations.upgrade(engine)
    engine.dispose()


def test_revisions_are_one_line(engine: Engine) -> None:
    """There is one head and no branch, from the first table on."""
    scripts = list(ScriptDirectory.from_config(_config(None)).walk_revisions())
    assert [script.down_revision for script in scripts] == [*(script.revision for script in scripts[1:]), None]
