"""Changes that are refused: nothing of them is ever in force, and the trail says what they were."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from tests.build import RULE, Running
from tests.changes.manifests import everything, propose
from tests.gateway.world import last_records

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("files", "problem", "told"),
    [
        ({"policies": {"x.cedar": "permit (principal"}}, "policy_invalid", "x.cedar"),
        ({"policies": {"x.cedar": '@id("x") permit (principal is Robot, action, resource);'}}, "policy_invalid", "x"),
        (
            {"policies": {"x.cedar": '@id("x") permit (principal, action, resource) when { principal.purse };'}},
            "policy_invalid",
            "x",
        ),
        ({"policies": {"x.cedar": "permit (principal, action, resource);"}}, "policy_invalid", "@id"),
        ({"policies": {"x.cedar": RULE + RULE}}, "policy_invalid", "nightly-job"),
        ({"policies": {"inactive.cedar": None, "models.cedar": None}}, "cases_failed", "cases fail"),
        ({"cases": {"x.yaml": "- name: a\n  expect: perhaps\n"}}, None, "x.yaml"),
        ({"cases": {"x.yaml": "{ not: [yaml"}}, None, "x.yaml"),
        ({"policy_set": {"files": {"x.cedar": "// nothing\n"}}}, "policy_invalid", "could not propose"),
        ({"policy_set": {"files": {"x.cedar": "// nothing\n"}, "schema": "entity Nothing;"}}, "policy_invalid", ""),
    ],
)
async def test_a_set_that_does_not_hold_is_never_activated(
    shared: Running, ada: httpx2.AsyncClient, files: dict[str, Any], problem: str | None, told: str
) -> None:
    """What does not parse, validate or pass its cases, or locks out its author, is refused and recorded; all stays."""
    before, hash = await everything(ada), shared.broker.policies.current.hash
    refused = await propose(ada, files)
    assert refused.status_code == 422, refused.text
    assert told in refused.json()["detail"]
    assert problem is None or refused.json()["type"] == f"urn:broker:problem:{problem}"
    record = (await last_records(shared, 1))[0]
    assert (record["kind"], record["decision"]["outcome"]) == ("ChangeRefused", "deny")
    assert record["remedy"]["why"] == refused.json()["detail"][:2000]
    assert await everything(ada) == before
    assert shared.broker.policies.current.hash == hash


@pytest.mark.parametrize(
    ("what", "status", "told"),
    [
        ({"section": "agents", "name": "nobody", "status": "suspended"}, 404, "nobody"),
        ({"section": "agents", "name": "registered-keys", "status": "suspended"}, 404, "registered-keys"),
        ({"section": "attesters", "name": "registered-keys", "status": "suspended"}, 422, "disabled"),
        ({"section": "operators", "name": "admin", "status": "revoked"}, 422, "suspended"),
        ({"section": "agents", "name": "x", "status": "active"}, 400, "status"),
        ({"section": "policies", "name": "x", "status": "disabled"}, 400, "section"),
        ({"section": "agents", "name": "x", "status": "suspended", "why": ""}, 400, "why"),
        ({"section": "agents", "name": "x", "status": "suspended", "until": "x"}, 400, "until"),
    ],
)
async def test_containing_only_narrows(
    shared: Running, ada: httpx2.AsyncClient, what: dict[str, str], status: int, told: str
) -> None:
    """The route that needs one admin cannot give a right, invent a thing, or go without a reason."""
    answer = await ada.post("/api/v1/contain", json={"why": "test", **what})
    assert answer.status_code == status
    assert told in answer.json()["detail"]
