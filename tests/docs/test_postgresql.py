"""docs/postgresql.md, run as it stands: its role is enough, its configuration is taken."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from broker.settings import Settings
from tests.build import running, token_request
from tests.databases import server

_GUIDE = Path(__file__).parents[2] / "docs" / "postgresql.md"


def _block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", _GUIDE.read_text("utf-8"), re.DOTALL)
    return str(found)


@pytest.mark.postgresql
async def test_the_role_of_the_guide_is_enough(tmp_path: Path) -> None:
    """A broker starts, migrates, issues and stops by what the guide grants, and the role can do nothing beyond it."""
    with server().session() as session:
        for statement in _block("sql").replace("broker", "guided").split(";"):
            if statement.strip():
                session.execute(statement.encode())
        powers = "rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls"
        found = session.execute(f"SELECT {powers} FROM pg_roles WHERE rolname = 'guided'".encode())
        assert found.fetchall() == [(False,)]
    url = f"postgresql://guided@/guided?host={server().folder}"
    async with running(tmp_path, storage={"database": url}) as run:
        await run.apply(run.world())
        assert (await token_request(run)).status_code == 200
        await run.check_log()
    with server().session() as session:
        session.execute("DROP DATABASE guided")
        session.execute("DROP ROLE guided")


def test_the_configuration_of_the_guide_is_taken() -> None:
    """As it stands."""
    found = Settings.model_validate(tomllib.loads(_block("toml")))
    assert found.storage.database is not None
    assert found.storage.database_password is not None
