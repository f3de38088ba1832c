"""One broker with one admin for every test of a worker; tests use names of their own in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.public_log import PublicLog
from tests.cli.running import BrokerProcess, Person, broker_process, signed_in
from tests.cli.stand_in_log import serving
from tests.cli.watched import Watched


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


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A watch that has seen a log of 300 entries."""
    with serving() as log, PublicLog(log.url) as public:
        log.grow(300)
        made = Watched(log, public, tmp_path / "state")
        assert made.look() == []
        yield made
