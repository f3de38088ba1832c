"""Recorded decisions made again: Cedar on the inputs and policies that a record names, against what it says came out.

"Could not decide" is an answer of its own, and never counts as agreement: what was erased, withheld, never told or is
missing proves nothing about the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from broker.audit import schema
from broker.audit.events import UNKNOWN, Kind
from broker.errors import BrokerError, Malformed, PolicyInvalid
from broker.policy.annotations import ENROL
from broker.policy.decided import Slice, read_context
from broker.policy.engine import PolicySet
from broker.policy.request import Request

_NESTED = {"enrolment": ENROL, "operator": ""}
"""Members of a decision group that are decisions themselves, with the action where it is not told."""

_EVIDENCE = "evidence:"
"""Whose decision an enrolment is; no agent has such a name."""

_RESOURCES = {"Audience": "resource", "Model": "model"}
"""Members of a record's `what` that name what a decision was about, by the type of the resource."""

_ENROLS = frozenset({Kind.AGENT_ENROLLED, Kind.TOKEN_REFUSED})
"""Kinds of records whose decision may be an enrolment's."""


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
    kind: str,
    groups: Mapping[str, Mapping[str, Any]],
    set_of: Callable[[str], PolicySet | None],
    slice_of: Callable[[str], Slice | None],
    *,
    of: str = "",
) -> Iterator[Redecided]:
    """Makes every decision of one record again.

    Args:
        kind: of the record: one that always tells what was asked is not decided where this one does not.
        groups: what it shows, by name; {} for a group that it never had. Who acted, and on what, must be what the
            decision was made for, or it is none of this record's.
        set_of: the compiled policy set of a hash, None if it is not at hand.
        slice_of: the entities of a digest, None if they are not at hand.
        of: the agent whose records these are said to be; "" for any.
    """
    record = _Record(groups.get("decision"), groups.get("who"), groups.get("what"))
    if of and record.agent is not None and (record.agent or UNKNOWN) != of:
        yield Redecided("", Verdict.DIFFERS, f"recorded of {record.agent or UNKNOWN}, among the records of {of}")
        return
    decision = record.decision
    if decision is None:
        yield Redecided("", Verdict.UNDECIDED, "the decision is withheld or erased")
        return
    for name, action in _NESTED.items():
        if isinstance(decision.get(name), dict):
            yield _one(record, {"action": action, **decision[name]}, set_of, slice_of)
    if "action" in decision and not record.asks(str(decision["action"]), kind):
        yield Redecided(str(decision["action"]), Verdict.DIFFERS, "the record is of another action")
    elif "action" in decision:
        yield _one(record, decision, set_of, slice_of)
    elif "inputs" in decision or any(
        schema.tells(kind, "decision", member) and member not in decision for member in ("outcome", "action")
    ):
        yield Redecided("", Verdict.UNDECIDED, "the record does not tell what was asked")
    elif "outcome" in decision and not any(name in decision for name in _NESTED):
        yield Redecided("", Verdict.NOT_ASKED, str(decision.get("reason", "")))


@dataclass(frozen=True, slots=True)
class _Record:
    """What a record says of its decisions; None for what is not shown."""

    decision: Mapping[str, Any] | None
    who: Mapping[str, Any] | None
    what: Mapping[str, Any] | None

    @property
    def agent(self) -> str | None:
        """Who acted; None if the record does not show it."""
        return str(self.who["agent"]) if self.who and "agent" in self.who else None

    def asks(self, action: str, kind: str) -> bool:
        """Whether a decision is on what was done; to enrol is asked on the way to a token, and lets nobody have one."""
        done = (self.what or {}).get("action", action)
        return done == action or (action == ENROL and kind in _ENROLS)

    def other(self, slice: Slice, action: str) -> Redecided | None:
        """What a decision comes to that was made for somebody or something else; None for one of this record."""
        kind, id = slice.principal
        was_of = {"Agent": id, "Operator": f"operator:{id}"}.get(kind, _EVIDENCE)
        expected = _EVIDENCE if action == ENROL else self.agent
        if expected is None:
            return Redecided(action, Verdict.UNDECIDED, "whose decision it was is withheld or erased")
        if was_of != expected:
            named = expected if expected != _EVIDENCE else "evidence"
            return Redecided(action, Verdict.DIFFERS, f"recorded of {named or 'nobody'}, decided for {kind} {id}")
        kind, id = slice.resource
        if (member := _RESOURCES.get(kind)) is None:
            return None
        if self.what is None:
            return Redecided(action, Verdict.UNDECIDED, "what it was about is withheld or erased")
        if (was_on := str(self.what.get(member, ""))) != id:
            return Redecided(action, Verdict.DIFFERS, f"recorded of {was_on or 'nothing'}, decided for {kind} {id}")
        return None


def _one(
    record: _Record,
    told: Mapping[str, Any],
    set_of: Callable[[str], PolicySet | None],
    slice_of: Callable[[str], Slice | None],
) -> Redecided:
    action = str(told.get("action", ""))
    if not told.get("entities"):
        return Redecided(action, Verdict.UNDECIDED, "its inputs were not declared")
    whole = (record.decision or {}).get("set", "")
    try:
        slice, policies = slice_of(str(told["entities"])), set_of(str(told.get("set", whole)))
        if slice is None:
            return Redecided(action, Verdict.UNDECIDED, "its entities are missing, withheld or erased")
        if policies is None:
            return Redecided(action, Verdict.UNDECIDED, "its policy set is missing")
        if (other := record.other(slice, action)) is not None:
            return other
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
