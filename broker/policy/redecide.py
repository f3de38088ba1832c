"""Recorded decisions made again: Cedar on the inputs and policies that a record names, against what it says came out.

"Could not decide" is an answer of its own, and never counts as agreement: what was erased, withheld, never told or is
missing proves nothing about the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from broker.errors import BrokerError, Malformed, PolicyInvalid
from broker.policy.annotations import ENROL
from broker.policy.decided import Slice, read_context
from broker.policy.engine import PolicySet
from broker.policy.request import Request

_NESTED = {"enrolment": ENROL, "operator": ""}
"""Members of a decision group that are decisions themselves, with the action where it is not told."""


class Verdict(StrEnum):
    """What came of making a decision again."""

    AGREES = "agrees"
    DIFFERS = "differs"
    UNDECIDED = "could not decide"
    NOT_ASKED = "policies not asked"


@dataclass(frozen=True, slots=True)
class Redecided:
    """One decision made again: its action, the verdict, and why where the verdict says not enough."""

    action: str
    verdict: Verdict
    why: str = ""


def redecide(
    decision: Mapping[str, Any] | None,
    set_of: Callable[[str], PolicySet | None],
    slice_of: Callable[[str], Slice | None],
) -> Iterator[Redecided]:
    """Makes every decision of one record again.

    Args:
        decision: its decision group; None if that is not shown.
        set_of: the compiled policy set of a hash, None if it is not at hand.
        slice_of: the entities of a digest, None if they are not at hand.
    """
    if decision is None:
        yield Redecided("", Verdict.UNDECIDED, "the decision is withheld or erased")
        return
    whole = str(decision.get("set", ""))
    for name, action in _NESTED.items():
        if isinstance(decision.get(name), dict):
            yield _one({"action": action, **decision[name]}, whole, set_of, slice_of)
    if "action" in decision:
        yield _one(decision, whole, set_of, slice_of)
        return
    if "inputs" in decision:
        yield Redecided("", Verdict.UNDECIDED, "the record does not tell what was asked")
    elif "outcome" in decision and not any(name in decision for name in _NESTED):
        yield Redecided("", Verdict.NOT_ASKED, str(decision.get("reason", "")))


def _one(
    told: Mapping[str, Any],
    whole: str,
    set_of: Callable[[str], PolicySet | None],
    slice_of: Callable[[str], Slice | None],
) -> Redecided:
    action = str(told.get("action", ""))
    if not told.get("entities"):
        return Redecided(action, Verdict.UNDECIDED, "its inputs were not declared")
    try:
        slice, policies = slice_of(str(told["entities"])), set_of(str(told.get("set", whole)))
        if slice is None:
            return Redecided(action, Verdict.UNDECIDED, "its entities are missing or erased")
        if policies is None:
            return Redecided(action, Verdict.UNDECIDED, "its policy set is missing")
        context = read_context(told["inputs"]) if "inputs" in told else slice.context
        request = Request(slice.principal, action, slice.resource, context)
        now = policies.decide(request, policies.prepare(slice.entities))
    except (Malformed, PolicyInvalid, KeyError, TypeError, ValueError, AttributeError) as error:
        why = error.detail if isinstance(error, BrokerError) else "the record is of another shape"
        return Redecided(action, Verdict.UNDECIDED, why)
    was = (str(told.get("limited_by")), list(told.get("policies", [])))
    found = (now.limited_by, list(now.policies))
    if was != found:
        return Redecided(action, Verdict.DIFFERS, f"recorded {_words(*was)}, decided again {_words(*found)}")
    if told.get("outcome") == "permit" and not now.permitted:
        return Redecided(action, Verdict.DIFFERS, f"recorded as a permit, decided again {_words(*found)}")
    if told.get("outcome") == "deny" and now.permitted and not told.get("reason"):
        return Redecided(
            action, Verdict.DIFFERS, f"recorded as a refusal without a reason, decided again {_words(*found)}"
        )
    return Redecided(action, Verdict.AGREES)


def _words(limited_by: str, policies: list[str]) -> str:
    return f"{'deny, ' + limited_by if limited_by else 'permit'} by {', '.join(map(str, policies)) or 'no policy'}"
