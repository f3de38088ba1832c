"""Taking rights away needs one admin, and does not make one admin enough for anything else."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.build import AGENT, Running
from tests.changes.manifests import AGENT_SPEC, widenable


@pytest.fixture
async def world(run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> dict[str, Any]:
    """Two admins, and things that are there to be switched off."""
    return await widenable(run, admin, bob)


async def test_what_narrows_does_not_wait(run: Running, world: dict[str, Any], admin: httpx2.AsyncClient) -> None:
    """Switching off needs one admin, by a manifest as by containment."""
    narrowing: list[dict[str, Any]] = [
        {"agents": {"a": {"status": "suspended"}}},
        {"agents": {AGENT: {"status": "revoked"}}},
        {"attesters": {"platform": {**world["attesters"]["platform"], "status": "disabled"}}},
        {"endpoints": {"stand-in": {**world["endpoints"]["stand-in"], "status": "disabled"}}},
        {"operators": {"eve": {"roles": ["auditor"], "status": "suspended"}}},
    ]
    for manifest in narrowing:
        assert (await run.apply(manifest, admin))["status"] == "activated", manifest
    mixed = {
        "agents": {"stopped": {"status": "active"}},
        "operators": {"bob": {"roles": ["admin"], "status": "suspended"}},
    }
    assert (await run.apply(mixed, admin))["status"] == "pending"


async def test_stopping_the_second_admin_does_not_make_one_enough(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient
) -> None:
    """An admin who suspends the only other one cannot widen access alone afterwards."""
    what = {"section": "operators", "name": "bob", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    assert (await run.apply({"agents": {"b": AGENT_SPEC}}, admin))["status"] == "pending"
    assert "b" not in run.broker.directory.agents
