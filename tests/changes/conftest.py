"""A broker of its own for every test here: each of them changes what the broker knows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

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
