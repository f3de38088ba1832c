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

_EVIDENCE = "evidence:"
"""Whose decision an enrolment is; no agent has such a name."""

UNKNOWN = "unknown"
"""Whose a record is that names no agent."""


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
    who: Mapping[str, Any] | None,
    set_of: Callable[[str], PolicySet | None],
    slice_of: Callable[[str], Slice | None],
    *,
    of: str = "",
) -> Iterator[Redecided]:
    """Makes every decision of one record again.

    Args:
        decision: its decision group; None if that is not shown.
        who: its group of who acted, likewise: a decision that was made for somebody else is none of this record's.
        set_of: the compiled policy set of a hash, None if it is not at hand.
        slice_of: the entities of a digest, None if they are not at hand.
        of: the agent whose records these are said to be; "" for any.
    """
    agent = str(who["agent"]) if who and "agent" in who else None
    if of and agent is not None and (agent or UNKNOWN) != of:
        yield Redecided("", Verdict.DIFFERS, f"recorded of {agent or UNKNOWN}, among the records of {of}")
        return
    if decision is None:
        yield Redecided("", Verdict.UNDECIDED, "the decision is withheld or erased")
        return
    whole = str(decision.get("set", ""))
    for name, action in _NESTED.items():
        if isinstance(decision.get(name), dict):
            yield _one({"action": action, **decision[name]}, whole, agent, set_of, slice_of)
    if "action" in decision:
        yield _one(decision, whole, agent, set_of, slice_of)
        return
    if "inputs" in decision:
        yield Redecided("", Verdict.UNDECIDED, "the record does not tell what was asked")
    elif "outcome" in decision and not any(name in decision for name in _NESTED):
        yield Redecided("", Verdict.NOT_ASKED, str(decision.get("reason", "")))


def _one(
    told: Mapping[str, Any],
    whole: str,
    agent: str | None,
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
        kind, id = slice.principal
        was_of = {"Agent": id, "Operator": f"operator:{id}"}.get(kind, _EVIDENCE)
        expected = _EVIDENCE if action == ENROL else agent
        if expected is None:
            return Redecided(action, Verdict.UNDECIDED, "whose decision it was is withheld or erased")
        if was_of != expected:
            named = expected if expected != _EVIDENCE else "evidence"
            return Redecided(action, Verdict.DIFFERS, f"recorded of {named or 'nobody'}, decided for {kind} {id}")
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
