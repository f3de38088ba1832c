"""The schema and its history: from nothing, again, back and forth; the models and the migrations say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, MetaData, Table, inspect
from sqlmodel import SQLModel

from broker import migrations
from broker.assembly import assemble
from broker.assembly.broker import Broker
from broker.audit import inputs
from broker.db.engine import execute, open_engine, reading, writing
from broker.db.sqlite import sqlite_url
from broker.errors import ConfigurationError, ProofInvalid
from broker.formats import checkpoint
from broker.formats.record import GROUPS
from tests.build import running, settings_for, token_request
from tests.databases import open_database


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An empty database."""
    opened = open_database(tmp_path)
    yield opened
    opened.dispose()


def _schema(engine: Engine) -> dict[str, object]:
    """Everything that the database says of itself, and what it says of the code that works with it."""
    with reading(engine) as session:
        found = inspect(session.connection())
        tables = found.get_table_names()
        schema: dict[str, object] = {
            name: (
                [(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in found.get_columns(name)],
                found.get_pk_constraint(name)["constrained_columns"],
                sorted((i["name"] or "", i["column_names"], i["unique"]) for i in found.get_indexes(name)),
                sorted(u["column_names"] for u in found.get_unique_constraints(name)),
            )
            for name in tables
        }
        if "compatibility" in tables:
            rows = execute(session.connection(), "SELECT id, oldest FROM compatibility")
            schema["works with"] = [tuple(row) for row in rows]
        return schema


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
        execute(connection, "UPDATE alembic_version SET version_num = '9999'")
        execute(connection, "DELETE FROM compatibility")
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
    with pytest.raises(ConfigurationError, match=r"newest schema: .*subtrees.* already exists"):
        migrations.upgrade(engine)
    assert _schema(engine) == before


@pytest.mark.sqlite
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


_REVISIONS = [script.revision for script in reversed(list(ScriptDirectory.from_config(_config(None)).walk_revisions()))]


def _move(engine: Engine, revision: str) -> None:
    """Brings an empty or a full database to a revision, up or down."""
    with writing(engine, patient=True) as connection:
        current = MigrationContext.configure(connection).get_current_revision() or ""
        (command.upgrade if current < revision else command.downgrade)(_config(connection), revision)


def _tables(engine: Engine) -> dict[str, Table]:
    """The schema as the database has it: what code of that revision works with."""
    reflected = MetaData()
    with reading(engine) as session:
        reflected.reflect(session.connection())
    return {name: table for name, table in reflected.tables.items() if name not in _OWN}


_OWN = {"alembic_version", "compatibility"}
"""What the history keeps of itself."""


def _row(table: Table, seed: int) -> dict[str, Any]:
    """A row with a value of its own in every column of the table; a record is one that names the stored input."""
    samples: dict[type, Any] = {
        int: seed,
        float: seed + 0.5,
        str: f"text {seed}",
        bytes: b"bytes %d" % seed,
        bool: True,
    }
    row = {column.name: samples[column.type.python_type] for column in table.columns}
    return row | {"groups": _groups(f"text {seed}")} if "groups" in row else row


def _groups(digest: str, *lost: str) -> bytes:
    """The groups of a record whose decision names an input, without those that were erased."""
    decision = orjson.dumps({"outcome": "permit", "operator": {"entities": digest}}).decode()
    kept = [name for name in GROUPS if name not in lost]
    return orjson.dumps({name: ["00" * 16, decision if name == "decision" else ""] for name in kept})


def _put(engine: Engine, tables: Mapping[str, Table], seed: int) -> None:
    with writing(engine) as connection:
        for table in tables.values():
            connection.execute(table.insert(), _row(table, seed))


def _found(engine: Engine, tables: Mapping[str, Table]) -> dict[str, list[dict[str, Any]]]:
    with reading(engine) as session:
        return {
            name: [dict(row) for row in session.execute(table.select().order_by(*table.primary_key)).mappings()]
            for name, table in tables.items()
        }


@pytest.mark.parametrize("revision", _REVISIONS)
def test_data_survives_every_step(engine: Engine, revision: str) -> None:
    """With a row in every table: back by one step and up again keeps every row of what the older schema knows."""
    _move(engine, revision)
    _put(engine, _tables(engine), 1)
    before = [each for each in _REVISIONS if each < revision]
    _move(engine, before[-1] if before else "base")
    older = _tables(engine)
    kept = _found(engine, older)
    _move(engine, revision)
    assert _found(engine, older) == kept
    assert all(len(rows) == 1 for rows in kept.values())


@pytest.mark.parametrize(("older", "newer"), list(pairwise(_REVISIONS)))
def test_older_code_works_on_the_newer_schema(engine: Engine, older: str, newer: str) -> None:
    """What a revision says it works with, it works with: the older code's rows go in and come out unchanged."""
    script = ScriptDirectory.from_config(_config(None)).get_revision(newer)
    if script.module.works_with > older:
        return  # it says that it does not; then an older broker is refused
    _move(engine, older)
    known = _tables(engine)
    _put(engine, known, 1)
    _move(engine, newer)
    _put(engine, known, 2)
    assert _found(engine, known) == {name: [_row(table, 1), _row(table, 2)] for name, table in known.items()}


def test_inputs_are_kept_by_the_records_that_have_what_they_repeat(engine: Engine) -> None:
    """Of others no use is noted; what nobody keeps is deleted, for no later erasure would come by it."""
    _move(engine, "0005")
    known = _tables(engine)
    stored = ["whole", "no request", *inputs.KEEPING, "shared", "of none"]
    records = [
        _groups("whole"), _groups("no request", "request"), *(_groups(name, name) for name in inputs.KEEPING),
        _groups("shared", "who"), _groups("shared"), b"no JSON", b"[]",
    ]  # fmt: skip
    with writing(engine) as connection:
        for digest in stored:
            connection.execute(known["entity_slices"].insert(), {"digest": digest, "content": b"{}"})
        for seed, groups in enumerate(records):
            connection.execute(known["records"].insert(), _row(known["records"], seed) | {"groups": groups})
    _move(engine, "0007")
    tables = _tables(engine)
    found = _found(engine, {name: tables[name] for name in ("entity_slices", "slice_uses")})
    assert {row["digest"] for row in found["entity_slices"]} == {"whole", "no request", "shared"}
    assert {(row["agent_tag"], row["digest"]) for row in found["slice_uses"]} == {
        (f"text {records.index(_groups('whole'))}", "whole"),
        (f"text {records.index(_groups('no request', 'request'))}", "no request"),
        (f"text {records.index(_groups('shared'))}", "shared"),
    }


async def test_a_broker_works_after_there_and_back(tmp_path: Path) -> None:
    """A database that went back to every older schema and up again serves as before, and its log is whole."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        await run.check_log()
    for revision in reversed(_REVISIONS):
        engine = open_database(tmp_path, data_dir=tmp_path / "data")
        _move(engine, revision)
        engine.dispose()
    async with running(tmp_path) as again:
        again.checkpoint = run.checkpoint
        await again.apply(again.world())
        assert (await token_request(again)).status_code == 200
        await again.check_log()


async def _killed_while_records_waited(folder: Path) -> Path:
    """The keys of a broker that is gone without having signed what it recorded last."""
    broker: Broker = assemble(settings_for(folder), prepare=migrations.upgrade)
    await broker.start()
    await asyncio.gather(*(broker.sign_in.link("admin") for _ in range(3)))
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()
    return folder / "data" / "keys"


def _without_seals(folder: Path) -> None:
    """Makes the database one of the version that knew no seals, or what somebody would have taken for one."""
    engine = open_database(folder, data_dir=folder / "data")
    _move(engine, "0007")
    engine.dispose()


async def test_records_that_waited_when_seals_came_are_signed(tmp_path: Path) -> None:
    """The first start of the version that seals takes what was left waiting, and its log is whole."""
    keys = await _killed_while_records_waited(tmp_path)
    (keys / "seals.begun").unlink()
    _without_seals(tmp_path)
    async with running(tmp_path) as run:
        await run.check_log()
        head = checkpoint.parse_unverified(run.broker.tree.head())
    assert head.size > 3
    assert (keys / "seals.begun").exists()


async def test_a_database_that_became_old_again_is_not_believed(tmp_path: Path) -> None:
    """Whoever can write it could say so of any record; that seals have begun stands beside the keys."""
    await _killed_while_records_waited(tmp_path)
    _without_seals(tmp_path)
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    with pytest.raises(ProofInvalid, match=r"Records \d+ to \d+ were not written by this broker.*no seal is over them"):
        await broker.start()
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()


def _newer(engine: Engine, oldest: str) -> None:
    """Makes the database one that a newer broker wrote, which works with code from revision `oldest` on."""
    with writing(engine) as connection:
        execute(connection, "UPDATE alembic_version SET version_num = '9999'")
        execute(connection, "UPDATE compatibility SET oldest = ?", (oldest,))


def test_a_newer_schema_that_works_with_this_code_is_used(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """An older broker starts on it with a warning, and leaves it as it is."""
    migrations.upgrade(engine)
    _newer(engine, _REVISIONS[-1])
    before = _schema(engine)
    migrations.upgrade(engine)
    assert "schema 9999 of a newer broker, which works with this version too" in caplog.text
    assert (_schema(engine), _revision(engine)) == (before, "9999")


def test_a_newer_schema_that_works_with_newer_code_only_is_refused(engine: Engine) -> None:
    """The newer broker said so in the database."""
    migrations.upgrade(engine)
    _newer(engine, "9998")
    with pytest.raises(ConfigurationError, match=r"schema 9999, .*newer broker"):
        migrations.upgrade(engine)


def test_every_schema_says_what_works_with_it(engine: Engine) -> None:
    """From the revision on that can say it, also after a step back."""
    able = [revision for revision in _REVISIONS if revision >= "0003"]
    for revision in (*able, *reversed(able)):
        _move(engine, revision)
        script = ScriptDirectory.from_config(_config(None)).get_revision(revision)
        assert _schema(engine)["works with"] == [(1, script.module.works_with)]
        assert script.module.works_with in _REVISIONS
