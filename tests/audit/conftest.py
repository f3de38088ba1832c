"""A database with the newest schema in a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker.audit.events import Kind
from tests import databases
from tests.audit.logs import signed_by
from tests.audit.made_packages import ALICE, SET_HASH, Whole, decision_with, erasure_of, of, package_of, verifier_says
from tests.audit.made_packages import SIGNER as MAKER
from tests.audit.packages import signed_again
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A package that no test changes; one record names a set and entities, of one a group was erased."""
    folder = tmp_path_factory.mktemp("whole")
    engine = databases.open_database(folder, migrated=True)
    decided = of(decision=decision_with(), inputs=(ALICE,))
    bob = of("bob", kind=Kind.CHANGE_REFUSED)
    made = package_of(engine, folder, of(), decided, bob, *erasure_of([[2, 2]]), kind_taken=Kind.CHANGE_REFUSED)
    engine.dispose()
    shutil.rmtree(made / "policies" / SET_HASH)  # a set of the test's has not the hash that the record names
    assert verifier_says(made, signed_again(made, MAKER))[0] == 0
    return Whole(made, folder / "home")


@pytest.fixture
def package(whole: Whole, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(whole.folder, tmp_path / "package"))
