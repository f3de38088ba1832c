"""`/api/v1`: everything that an admin or auditor can do. Every route stands behind an operator's token."""

from __future__ import annotations

from fastapi import APIRouter

from broker.web.api import audit, changes, erasure, health, identities, keys, packages, policies, queries

PREFIX = "/api/v1"


def router() -> APIRouter:
    """All routes of the API."""
    whole = APIRouter(prefix=PREFIX)
    for part in (identities, changes, policies, audit, packages, erasure, queries, health, keys):
        whole.include_router(part.router)
    return whole
