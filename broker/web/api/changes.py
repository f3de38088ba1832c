"""Changes: propose a manifest, approve it, withdraw it; contain at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from broker.changes import proposals, reach
from broker.changes.plan import Difference
from broker.changes.proposals import Outcome
from broker.web.api.access import Approver, Container, Proposer, Reader, RequestId, TheBroker
from broker.web.api.body import JsonBody

router = APIRouter(tags=["changes"])

_MANIFEST = JsonBody(dict[str, Any])
Manifest = Annotated[dict[str, Any], Depends(_MANIFEST)]


class Containment(BaseModel):
    """What to take rights from, and why."""

    model_config = ConfigDict(extra="forbid")

    section: Literal["agents", "attesters", "endpoints", "operators"]
    name: Annotated[str, Field(min_length=1, max_length=300)]
    status: Literal["suspended", "revoked", "disabled"]
    why: Annotated[str, Field(min_length=1, max_length=1000)]


_CONTAINMENT = JsonBody(Containment)


@router.post("/changes", openapi_extra=_MANIFEST.documented())
async def propose(
    broker: TheBroker, me: Proposer, rid: RequestId, manifest: Manifest, dry_run: bool = False
) -> dict[str, Any]:
    """Checks a manifest and activates it; once there are two admins, the second one must approve what widens access."""
    return _shown(broker.rules.issuer, await broker.changes.propose(manifest, by=me, request_id=rid, dry_run=dry_run))


@router.get("/changes")
async def list_changes(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """What was proposed for a second admin, newest first."""
    found = await broker.read(proposals.proposals)
    return {
        "changes": [
            {
                "id": p.id,
                "proposed_by": p.proposed_by,
                "proposed_at": p.proposed_at,
                "status": p.status,
                "decided_by": p.decided_by,
            }
            for p in found
        ]
    }


@router.get("/changes/{id}")
async def show_change(broker: TheBroker, _me: Reader, id: str) -> dict[str, Any]:
    """One proposal with its manifest, and what approving it would change now; `stale` if nobody can approve it."""
    proposal, plan = await broker.changes.preview(id)
    return {
        "id": proposal.id,
        "proposed_by": proposal.proposed_by,
        "proposed_at": proposal.proposed_at,
        "status": proposal.status,
        "decided_by": proposal.decided_by,
        "stale": plan is None and proposal.status == "pending",
        "manifest": proposal.manifest,
        "differences": _described(plan.differences) if plan is not None else [],
        "reach": asdict(reach.of(plan.differences, plan)) if plan is not None else None,
    }


@router.post("/changes/{id}/approve")
async def approve(broker: TheBroker, me: Approver, rid: RequestId, id: str) -> dict[str, Any]:
    """Approves and activates what another admin proposed."""
    return _shown(broker.rules.issuer, await broker.changes.approve(id, by=me, request_id=rid))


@router.post("/changes/{id}/withdraw")
async def withdraw(broker: TheBroker, me: Proposer, rid: RequestId, id: str) -> dict[str, Any]:
    """Withdraws or refuses what waits for approval."""
    await broker.changes.withdraw(id, by=me, request_id=rid)
    return {"id": id, "status": "withdrawn"}


@router.post("/contain", openapi_extra=_CONTAINMENT.documented())
async def contain(
    broker: TheBroker, me: Container, rid: RequestId, what: Annotated[Containment, Depends(_CONTAINMENT)]
) -> dict[str, Any]:
    """Suspends, revokes or disables at once; needs one admin."""
    outcome = await broker.changes.contain(what.section, what.name, what.status, what.why, by=me, request_id=rid)
    return _shown(broker.rules.issuer, outcome)


def _described(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    return [{"section": d.section, "name": d.name, "before": d.before, "after": d.after} for d in differences]


def _shown(issuer: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "id": outcome.id,
        "status": outcome.status,
        "record": outcome.record,
        "differences": _described(outcome.differences),
        "reach": asdict(outcome.reach),
        "sign_in_links": {name: f"{issuer}/login#{code}" for name, code in outcome.links.items()},
    }
