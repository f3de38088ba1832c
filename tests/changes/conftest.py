"""Brokers to change: one for each test, and one that the tests of a module share where they keep apart by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from tests.build import Running, running


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker that knows nothing yet; its log is re-verified at the end."""
    async with running(tmp_path) as started:
        yield started
        await started.check_log()


@pytest.fixture
async def admin(run: Running) -> httpx2.AsyncClient:
    """The first admin."""
    return await run.operator()


@pytest.fixture
async def bob(run: Running, admin: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A second admin, signed in: from here on, what widens access needs both."""
    added = await run.apply({"operators": {"bob": {"roles": ["admin"]}}}, admin)
    return await run.operator(link=added["sign_in_links"]["bob"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker for a whole module; its log is re-verified at the end."""
    async with running(tmp_path_factory.mktemp("changes")) as started:
        yield started
        await started.check_log()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ada(shared: Running) -> httpx2.AsyncClient:
    """Its first admin."""
    return await shared.operator()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ben(shared: Running, ada: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """Its second admin, signed in."""
    added = await shared.apply({"operators": {"ben": {"roles": ["admin"]}}}, ada)
    return await shared.operator(link=added["sign_in_links"]["ben"])
