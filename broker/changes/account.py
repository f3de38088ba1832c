"""What the record of a change tells: what it changed, before and after, and never the texts of whole files.

A record is bounded. What does not fit is told by digests and a count, so that nothing is left out without a word; who
holds the manifest can show that it is the one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from broker.changes.plan import Difference, Plan, jsonable
from broker.formats.canonical_json import canonical

MAX_BYTES = 64 * 1024
"""The longest canonical JSON of all differences in one record."""


def account(plan: Plan) -> dict[str, object]:
    """A plan as its record tells it.

    `differences` holds section, name, `before` and `after` of each: the described members, for a text `{"sha256": …}`.
    Where that is too long, everything is told by digests; where even these are, `differences_sha256` is the digest of
    their canonical list. `count` is always how many there are.
    """
    told: dict[str, object] = {
        "change": plan.id,
        "base": plan.base,
        "set": plan.checked.policies.hash if plan.checked is not None else plan.base,
        "cases": plan.checked.cases_run if plan.checked is not None else 0,
        "count": len(plan.differences),
    }
    members = [_members(difference) for difference in plan.differences]
    if len(canonical(members)) <= MAX_BYTES:
        return {**told, "differences": members}
    digests = [_digests(difference) for difference in plan.differences]
    text = canonical(digests)
    if len(text) <= MAX_BYTES:
        return {**told, "differences": digests}
    return {**told, "differences_sha256": hashlib.sha256(text).hexdigest()}


def _members(difference: Difference) -> dict[str, object]:
    before, after = (_short(value) for value in (difference.before, difference.after))
    return {"section": difference.section, "name": difference.name, "before": before, "after": after}


def _digests(difference: Difference) -> dict[str, object]:
    before, after = (_digest(value) for value in (difference.before, difference.after))
    return {"section": difference.section, "name": difference.name, "before": before, "after": after}


def _short(value: object) -> object:
    return jsonable(value) if isinstance(value, Mapping) else _digest(value)


def _digest(value: object) -> dict[str, str] | None:
    """The SHA-256 of a text's bytes, or of the canonical JSON of described members."""
    if value is None:
        return None
    data = value.encode() if isinstance(value, str) else canonical(jsonable(value))
    return {"sha256": hashlib.sha256(data).hexdigest()}
