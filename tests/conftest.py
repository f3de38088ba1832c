"""How every test runs, and on which database. Other fixtures live beside the tests that use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests import databases

# The same examples every time, and no limit in wall time: a slow machine must not change an outcome.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
# make test ARGS="--hypothesis-profile=search" looks further, with new examples each time.
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
# make fuzz: rounds of a few seconds, repeated with new examples until their time is used up.
settings.register_profile("fuzz", deadline=None, max_examples=400, print_blob=True, database=None)
settings.load_profile("steady")

_STORES = (
    "audit/test_bundle", "audit/test_dying", "audit/test_erasure", "audit/test_inputs", "audit/test_log",
    "audit/test_search", "audit/test_trail", "audit/test_tree", "changes", "db", "journeys", "policy",
    "gateway/test_endpoints", "identity/test_enrolment_races", "identity/test_instances", "test_assembly",
    "test_jobs", "test_migrations", "tokens/test_exchange_records", "tokens/test_forget", "tokens/test_restart",
    "tokens/test_signing_keys", "tokens/test_strangers", "web/test_api", "web/test_log",
)  # fmt: skip
"""Tests of what is stored and how it survives, which run on both databases always."""
_SEES = (*_STORES, "gateway", "health", "identity", "test_", "tokens", "web")
"""Tests that have a database behind them: `make test ARGS=--all-databases` runs these on both, too. The command line,
the play and the SDK meet the broker through HTTP alone; tests/fuzz opens embedded databases of its own."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all-databases`: also the tests that only have a database behind them run on every kind of it."""
    parser.addoption("--all-databases", action="store_true", help="run every test that has a database on each kind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test once for each kind of database; one that is marked for a kind, on that kind alone."""
    place = Path(metafunc.module.__file__).relative_to(Path(__file__).parent).as_posix()
    chosen = _SEES if metafunc.config.getoption("--all-databases") else _STORES
    marked = [kind for kind in databases.KINDS if metafunc.definition.get_closest_marker(kind)]
    reaches = {"tmp_path", "tmp_path_factory"} & set(metafunc.fixturenames)
    if marked or (reaches and place.startswith(chosen)):
        if "database" not in metafunc.fixturenames:
            metafunc.fixturenames.insert(0, "database")
        metafunc.parametrize("database", marked or databases.KINDS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def database(request: pytest.FixtureRequest) -> str:
    """The kind of database that the next tests run on."""
    kind = str(getattr(request, "param", databases.SQLITE))
    databases.use(kind)
    return kind


@pytest.fixture(scope="session")
def tmp_path_factory(database: str, tmp_path_factory: pytest.TempPathFactory) -> pytest.TempPathFactory:
    """Pytest's own; but whatever is made in a folder is made anew for another kind of database."""
    assert database in databases.KINDS
    return tmp_path_factory


@pytest.fixture(autouse=True)
def _none_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a database on the server."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        databases.drop(folder)


@pytest.fixture(scope="session", autouse=True)
def _no_server_left() -> Iterator[None]:
    yield
    databases.close()
