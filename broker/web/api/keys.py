"""The broker's own keys: what is public of them, and letting one follow another."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from broker.errors import InvalidRequest, Unavailable, Unconfirmed
from broker.web.api.access import Container, Reader, RequestId, TheBroker
from broker.web.api.body import JsonBody

router = APIRouter(tags=["keys"])


class Rotation(BaseModel):
    """Which key is to be followed by another, and why.

    Without `log` the key that signs tokens; with it the log's. `compromised` names the key that somebody else may hold:
    a token key's id, or with `log` the log's key as verifiers pin it.
    """

    model_config = ConfigDict(extra="forbid")

    log: bool = False
    compromised: Annotated[str, Field(max_length=1000)] | None = None
    why: Annotated[str, Field(min_length=1, max_length=1000)] = "asked for"


_ROTATION = JsonBody(Rotation)


@router.get("/keys")
async def list_keys(broker: TheBroker, _me: Reader) -> dict[str, Any]:
    """The public keys: those that verify tokens, with their lives, and the log's, as auditors pin it."""
    lives = {life.kid: life for life in broker.signing_keys.lives}
    tokens = [
        {
            **key,
            "status": lives[key["kid"]].status,
            "published_at": lives[key["kid"]].published_at,
            "used_from": lives[key["kid"]].used_from,
        }
        for key in broker.keys.jwks()["keys"]
    ]
    return {
        "tokens": tokens,
        "current": broker.keys.current.kid,
        "next_at": broker.signing_keys.next_at(),
        "sealed": broker.keys.sealed,
        "log": broker.log_key,
    }


@router.post("/keys/rotate", openapi_extra=_ROTATION.documented())
async def rotate(
    broker: TheBroker, me: Container, rid: RequestId, what: Annotated[Rotation, Depends(_ROTATION)]
) -> dict[str, Any]:
    """Lets another key follow; one that is compromised ends at once. Needs one admin."""
    try:
        if what.log:
            if what.compromised not in (None, broker.log_key):
                raise InvalidRequest("`compromised` is not the log's key. It is shown by GET /log/keys.")
            receipt = await broker.log_rotation.rotate(
                what.why, by=me.id, request_id=rid, compromised=what.compromised is not None
            )
        elif what.compromised is not None:
            receipt = await broker.signing_keys.contain(what.compromised, what.why, by=me.id, request_id=rid)
        else:
            receipt = await broker.signing_keys.rotate(what.why, by=me.id, request_id=rid)
    except Unconfirmed as error:
        raise Unavailable(
            "It was not confirmed in time, and may have taken effect. Before you repeat it, look: `broker keys show`."
        ) from error
    return {"records": list(receipt.indices), **await list_keys(broker, me)}
