"""How the broker is: for `broker doctor` and whoever watches over it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from broker.health.running import Examination
from broker.web.api.access import Reader, TheBroker

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(request: Request, broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """What the broker finds when it looks at itself, and at its issuers and endpoints as it reaches them now."""
    examination: Examination = request.app.state.examination
    found = await examination.findings()
    return {"now_ms": int(broker.clock.now() * 1000), "findings": [asdict(finding) for finding in found]}
