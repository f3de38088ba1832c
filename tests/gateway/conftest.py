"""One broker for all tests of a module: none of them changes what the others rest on."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.build import Running, running
from tests.gateway.world import PARTS, ByHand, Part, Unruly, by_hand, manifest


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker whose provider misbehaves on demand; its log is re-verified at the end."""
    async with Unruly() as provider, running(tmp_path_factory.mktemp("gateway"), provider=provider) as started:
        await started.apply(manifest(started))
        yield started
        await started.broker.gateway.finish()
        await started.check_log()


@pytest.fixture(scope="module", params=PARTS)
def part(request: pytest.FixtureRequest) -> Part:
    """Each wire format: what holds for one holds for the other."""
    return PARTS[request.param]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(run: Running, part: Part) -> ByHand:
    """An agent that may call every model."""
    return await by_hand(run, part=part)
