"""One broker for all tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.build import Running, running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker with the world of `Running.world`; its log is re-verified at the end."""
    async with running(tmp_path_factory.mktemp("web")) as started:
        await started.apply(started.world())
        yield started
        await started.check_log()
