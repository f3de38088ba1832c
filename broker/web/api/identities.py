"""Agents, attesters, endpoints, operators and keys: what the broker knows."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any

from fastapi import APIRouter, Query

from broker.changes import manifest
from broker.errors import NotFound
from broker.web.api.access import Reader, TheBroker

router = APIRouter(tags=["identities"])


@router.get("/whoami")
async def whoami(me: Reader) -> dict[str, Any]:
    """The operator that the token belongs to."""
    return {"name": me.name, "client_id": me.id, "roles": sorted(me.roles)}


@router.get("/agents")
async def list_agents(
    broker: TheBroker,
    _me: Reader,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    owner: str = "",
) -> dict[str, Any]:
    """Agents and clients by id, a page at a time: pass the last id of a page as `after`."""
    found = sorted(a.id for a in broker.directory.agents.values() if a.id > after and owner in ("", a.owner))
    page = [{"id": id, **manifest.describe_agent(broker.directory.agents[id])} for id in islice(found, limit)]
    return {"agents": page, "next": page[-1]["id"] if len(found) > limit else None}


@router.get("/agents/{id:path}")
async def show_agent(broker: TheBroker, _me: Reader, id: str) -> dict[str, Any]:
    """One agent with its live instances."""
    agent = broker.directory.agents.get(id)
    if agent is None:
        raise NotFound(f"There is no agent {id}.")
    live = [
        {
            "id": i.id,
            "thumbprint": i.thumbprint,
            "attester": i.attester,
            "first_seen": i.first_seen,
            "ends_at": i.ends_at,
        }
        for i in broker.instances.of(id)
    ]
    return {"id": id, **manifest.describe_agent(agent), "instances": live}


@router.get("/attesters")
async def list_attesters(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """The issuers of evidence that are trusted."""
    found = sorted(broker.directory.attesters.values(), key=lambda a: a.name)
    return {"attesters": [{"name": a.name, **manifest.describe_attester(a)} for a in found]}


@router.get("/endpoints")
async def list_endpoints(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """Where calls go, and the models on offer."""
    found = sorted(broker.gateway.catalogue.endpoints.values(), key=lambda e: e.name)
    return {"endpoints": [{"name": e.name, **manifest.describe_endpoint(e)} for e in found]}


@router.get("/operators")
async def list_operators(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """The people who may use this API."""
    found = sorted(broker.directory.operators.values(), key=lambda o: o.name)
    return {"operators": [{"name": o.name, **manifest.describe_operator(o)} for o in found]}
