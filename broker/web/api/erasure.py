"""Erasing groups of records: for those whom a policy lets do it, and always on record."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from broker.audit import erasure
from broker.db.engine import forget_old_pages
from broker.errors import Unavailable, Unconfirmed
from broker.web.api.access import Eraser, RequestId, TheBroker
from broker.web.api.body import JsonBody

router = APIRouter(tags=["audit"], prefix="/audit")


class Erasure(BaseModel):
    """Which groups of whose records, made before when, and why."""

    model_config = ConfigDict(extra="forbid")

    agent: Annotated[str, Field(min_length=1, max_length=300)]
    groups: Annotated[list[str], Field(min_length=1, max_length=7)]
    before_ms: Annotated[int, Field(ge=0, lt=2**53)]
    after: Annotated[int, Field(ge=-1, lt=2**63)] = -1
    why: Annotated[str, Field(min_length=1, max_length=1000)]


_ERASURE = JsonBody(Erasure)


@router.post("/erase", openapi_extra=_ERASURE.documented())
async def erase(
    broker: TheBroker, me: Eraser, rid: RequestId, what: Annotated[Erasure, Depends(_ERASURE)]
) -> dict[str, Any]:
    """Erases a batch of records; go on with `after` until `next` is null."""
    selection = erasure.Selection(tuple(what.groups), what.agent, what.after, what.before_ms / 1000)
    try:
        done = await erasure.erase(
            broker.audit, broker.read, selection, what.why, by=me.id, request_id=rid, clock=broker.clock
        )
    except Unconfirmed as error:
        raise Unavailable(
            "It was not confirmed in time, and may have been done. Before you repeat it, look for `RecordsErased`: "
            "`broker audit search`."
        ) from error
    await asyncio.to_thread(forget_old_pages, broker.engine)
    return {"erased": len(done.indices), "inputs": done.inputs, "record": done.record, "next": done.next}
