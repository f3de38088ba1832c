"""What the tests of changes propose, and how they look at what came of it."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.build import MODEL, Running, es256, thumbprint, token_request

EVE = es256()
"""The key that eve's links are for."""

AGENT_SPEC = {"owner": "team", "purpose": "tests", "ceiling": [f"stand-in/{MODEL}"]}
ENDPOINT = {"base_url": "https://api.example/v1", "models": ["m"]}
OIDC = {"kind": "oidc", "issuer": "https://issuer.example", "audience": "https://broker.example"}


async def propose(admin: httpx2.AsyncClient, manifest: dict[str, Any], **query: str) -> httpx2.Response:
    """One manifest, and the answer as it came."""
    return await admin.post("/api/v1/changes", json=manifest, params=query)


async def everything(admin: httpx2.AsyncClient) -> list[Any]:
    """All that an admin can see of what the broker knows."""
    paths = ("agents", "attesters", "endpoints", "operators", "policies/active")
    return [(await admin.get(f"/api/v1/{path}")).json() for path in paths]


async def widenable(run: Running, first: httpx2.AsyncClient, second: httpx2.AsyncClient) -> dict[str, Any]:
    """Two admins make a world with things in it that could be widened; the manifest of it."""
    manifest = {
        **run.world(),
        "agents": {"a": AGENT_SPEC, "stopped": {**AGENT_SPEC, "status": "suspended"}},
        "operators": {"eve": {"roles": ["auditor"], "key": thumbprint(EVE)}},
        "attesters": {**run.world()["attesters"], "off": {**OIDC, "status": "disabled"}},
    }
    proposed = await run.apply(manifest, first)
    approved = await second.post(f"/api/v1/changes/{proposed['id']}/approve")
    assert approved.json()["status"] == "activated", approved.text
    assert (await token_request(run)).status_code == 200
    return manifest
