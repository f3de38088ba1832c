"""Saved queries: what an auditor asks again has a name, of one operator or shared by all."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from broker.audit import saved
from broker.audit.search import described_query
from broker.web.api.access import Auditor, TheBroker
from broker.web.api.body import JsonBody
from broker.web.api.reading import TheReading

router = APIRouter(tags=["audit"], prefix="/audit/queries")


class ToSave(BaseModel):
    """A query to keep under a name; `null` forgets what is kept there."""

    model_config = ConfigDict(extra="forbid")

    name: str
    query: dict[str, Any] | None
    shared: bool = False


_TO_SAVE = JsonBody(ToSave)


@router.get("")
async def listed(broker: TheBroker, me: Auditor) -> dict[str, Any]:
    """What you can run: your own queries, then the shared ones. What is asked by something withheld is left out."""
    disclosure = broker.operators.disclosure(me)
    return {"queries": await broker.read(lambda session: saved.saved(session, me.id, disclosure))}


@router.post("", openapi_extra=_TO_SAVE.documented())
async def save(broker: TheBroker, reading: TheReading, wanted: Annotated[ToSave, Depends(_TO_SAVE)]) -> dict[str, Any]:
    """Keeps a query, or forgets it. The answer's `record` tells of a shared one, else it is null."""
    query = None if wanted.query is None else described_query(wanted.query)
    now = broker.clock.now()
    record = await saved.save(broker.audit, wanted.name, query, shared=wanted.shared, by=reading.by, now=now)
    return {"name": wanted.name, "shared": wanted.shared, "record": record}
