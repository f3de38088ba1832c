"""One broker with one admin for every test of a worker; tests use names of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import BrokerProcess, Person, broker_process, signed_in


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker that knows nothing but its first admin."""
    with broker_process(tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="session")
def admin(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """The only admin, who is an auditor too."""
    return signed_in(tmp_path_factory.mktemp("admin"), str(broker.ready["sign_in_link"]))


@pytest.fixture
def stranger(tmp_path: Path) -> Person:
    """Somebody who is not signed in anywhere."""
    return Person(tmp_path / "nobody")
