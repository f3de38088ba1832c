"""Policies: look at them, try them, have a decision explained. They change as everything does, by `/changes`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from broker.policy import active
from broker.policy.shipped import PolicyFiles
from broker.web.api.access import Proposer, Reader, TheBroker
from broker.web.api.body import JsonBody

router = APIRouter(tags=["policies"])


class Draft(BaseModel):
    """A whole policy set that is not in force."""

    model_config = ConfigDict(extra="forbid")

    files: dict[str, str]
    cases: dict[str, str] = {}
    schema_text: str | None = None


class Question(BaseModel):
    """May this agent call this model?"""

    model_config = ConfigDict(extra="forbid")

    agent: Annotated[str, Field(min_length=1, max_length=300)]
    model: Annotated[str, Field(min_length=1, max_length=300)]
    operation: str = "chat.completions"
    stream: bool = False
    confirmation: str = "dpop"


_DRAFT = JsonBody(Draft)
_QUESTION = JsonBody(Question)


@router.get("/policies")
async def show_policies(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """The set in force: its hash, its policies, and every activation until now, the newest first."""
    current = broker.policies.current
    versions = await broker.read(active.versions)
    return {
        "hash": current.hash,
        "revision": broker.policies.revision,
        "policies": [
            {"id": p.id, "file": p.file, "line": p.line, "effect": p.effect, "action": list(p.action)}
            for p in current.policies
        ],
        "versions": [
            {"revision": v.revision, "hash": v.hash, "activated_at": v.activated_at, "activated_by": v.activated_by}
            for v in versions
        ],
    }


@router.get("/policies/{hash}")
async def show_version(broker: TheBroker, _me: Reader, hash: str) -> dict[str, Any]:
    """The texts of one set, by its hash or the number of an activation; `active` is the one in force."""
    wanted = str(broker.policies.revision) if hash == "active" else hash
    found = await broker.read(lambda session: active.version(session, wanted))
    source = found.source
    return {
        "hash": found.hash,
        "revision": found.revision,
        "schema": source.schema,
        "files": dict(source.files),
        "cases": dict(source.cases),
    }


@router.post("/policies/check", openapi_extra=_DRAFT.documented())
async def check(broker: TheBroker, _me: Proposer, draft: Annotated[Draft, Depends(_DRAFT)]) -> dict[str, Any]:
    """Validates a set and runs its cases; changes nothing."""
    schema = draft.schema_text if draft.schema_text is not None else broker.policies.source.schema
    checked = await active.one_at_a_time(lambda: active.check(PolicyFiles(schema, draft.files, draft.cases)))
    return {"hash": checked.policies.hash, "policies": len(checked.policies.policies), "cases": checked.cases_run}


@router.post("/policies/explain", openapi_extra=_QUESTION.documented())
async def explain(broker: TheBroker, _me: Reader, question: Annotated[Question, Depends(_QUESTION)]) -> dict[str, Any]:
    """Why a call is permitted or refused now."""
    return await asyncio.to_thread(
        broker.gateway.explain,
        question.agent,
        question.model,
        operation=question.operation,
        stream=question.stream,
        confirmation=question.confirmation,
    )
