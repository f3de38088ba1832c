"""Decisions made again: what agrees, what differs, and what could not be decided, which never counts as agreement."""

from __future__ import annotations

from typing import Any

import pytest

from broker.policy.decided import cut, read_slice, told
from broker.policy.engine import PolicySet
from broker.policy.redecide import Redecided, Verdict, redecide
from broker.policy.request import Entity, Request
from tests.policy.world import agent, call, extended, model, shipped_set

ENDPOINT = Entity(("Endpoint", "openai"), {"wire": "openai"})
MINE = {"agent": "triage"}
THAT = {"model": model().uid[1]}
FORBIDS = '@id("stop") forbid (principal, action == Action::"call", resource);'


def _recorded(policies: PolicySet, who: Entity) -> tuple[dict[str, Any], dict[str, bytes]]:
    what = model()
    request = call(who, what)
    request = Request(who.uid, "call", what.uid, request.context)
    entities = [who, what, ENDPOINT]
    decision = policies.decide(request, policies.prepare(entities))
    decided = told(request, decision, cut(who.uid, what.uid, entities))
    return dict(decided.told), dict(decided.inputs)


def _again(
    decision: dict[str, Any] | None,
    slices: dict[str, bytes],
    *sets: PolicySet,
    who: dict[str, Any] | None = MINE,
    what: dict[str, Any] | None = THAT,
    of: str = "",
    kind: str = "OperatorRefused",
) -> list[Redecided]:
    known = {each.hash: each for each in sets}
    read = {digest: read_slice(content) for digest, content in slices.items()}
    shown = {"decision": decision, "who": who, "what": what}
    groups = {name: group for name, group in shown.items() if group is not None}
    return list(redecide(kind, groups, known.get, read.get, of=of))


@pytest.mark.parametrize("status", ["active", "suspended"])
def test_what_was_decided_agrees(status: str) -> None:
    """A permit and a denial."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent(status=status))
    assert (decision["outcome"] == "permit") == (status == "active")
    assert _again(decision, slices, policies) == [Redecided("call", Verdict.AGREES)]


def test_each_decision_is_made_again_on_its_own_set() -> None:
    """Before and after a change of the policies, one permits and one denies, and both agree."""
    before, after = shipped_set(), extended(more=FORBIDS)
    for policies, outcome in ((before, "permit"), (after, "deny")):
        decision, slices = _recorded(policies, agent())
        assert decision["outcome"] == outcome
        assert [found.verdict for found in _again(decision, slices, before, after)] == [Verdict.AGREES]


@pytest.mark.parametrize(
    "changed",
    [
        {"limited_by": "policy", "outcome": "deny"},
        {"policies": ["another"]},
        {"policies": []},
    ],
)
def test_what_the_policies_did_not_say_differs(changed: dict[str, Any]) -> None:
    """Another answer, or other policies."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    (found,) = _again(decision | changed, slices, policies)
    assert found.verdict is Verdict.DIFFERS
    assert "decided again permit" in found.why


def test_a_grant_against_a_denial_differs() -> None:
    """A record that says permit where the policies are said to have refused."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent(status="suspended"))
    assert [found.verdict for found in _again(decision | {"outcome": "permit"}, slices, policies)] == [Verdict.DIFFERS]


def test_a_refusal_for_another_reason_agrees_with_the_permit() -> None:
    """The policies permitted, and a proof that was used before refused: both stand in the record."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    refused = decision | {"outcome": "deny", "reason": "replayed_proof"}
    assert [found.verdict for found in _again(refused, slices, policies)] == [Verdict.AGREES]


def test_what_cannot_be_decided_is_no_agreement() -> None:
    """Erased, not declared, entities or set missing, told in another shape: each says which."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    for told_, known, sets, why in (
        (None, slices, (policies,), "withheld or erased"),
        (decision | {"entities": ""}, slices, (policies,), "not declared"),
        (decision, {}, (policies,), "missing, withheld or erased"),
        (decision, slices, (), "policy set is missing"),
        (decision | {"inputs": []}, slices, (policies,), "another shape"),
        ({"outcome": "permit", "inputs": {}, "set": policies.hash}, slices, (policies,), "does not tell"),
    ):
        (found,) = _again(told_, known, *sets)
        assert found.verdict is Verdict.UNDECIDED
        assert why in found.why


def test_decisions_within_a_decision_are_made_again_too() -> None:
    """Which agent it is, and whether an operator may, each beside what the record is about."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    inner = {name: value for name, value in decision.items() if name != "set"}
    both = _again(decision | {"enrolment": inner}, slices, policies)
    assert [found.verdict for found in both] == [Verdict.AGREES, Verdict.AGREES]
    brief = {name: decision[name] for name in ("entities", "limited_by", "policies")}
    (as_enrolment, _) = _again(decision | {"enrolment": brief}, slices, policies)
    assert (as_enrolment.action, as_enrolment.verdict) == ("enrol", Verdict.DIFFERS)
    alone = _again({"outcome": "permit", "set": policies.hash, "operator": decision}, slices, policies)
    assert [found.verdict for found in alone] == [Verdict.AGREES]


def test_a_refusal_before_the_policies_were_asked_is_counted_apart() -> None:
    """Neither agreement nor doubt; and a record without a decision is none."""
    (found,) = _again({"outcome": "deny", "reason": "invalid_scope", "set": "x"}, {})
    assert (found.verdict, found.why) == (Verdict.NOT_ASKED, "invalid_scope")
    assert _again({}, {}, kind="KeyInUse") == []


@pytest.mark.parametrize(
    ("kind", "decision"),
    [
        ("TokenIssued", {"outcome": "permit"}),
        ("CallAdmitted", {"outcome": "permit", "set": "x"}),
        ("TrailRead", {}),
        ("CallRefused", {}),
        ("TokenRefused", {"reason": "x"}),
    ],
)
def test_a_record_that_must_tell_what_was_asked_is_not_decided_without(kind: str, decision: dict[str, Any]) -> None:
    """Of a kind that always tells it, one that does not could not be decided, and never counts as nothing."""
    (found,) = _again(decision, {}, kind=kind)
    assert (found.verdict, found.why) == (Verdict.UNDECIDED, "the record does not tell what was asked")


@pytest.mark.parametrize(
    ("what", "verdict", "why"),
    [
        ({"model": "openai/other"}, Verdict.DIFFERS, "recorded of openai/other, decided for Model "),
        ({}, Verdict.DIFFERS, "recorded of nothing, decided for Model "),
        (None, Verdict.UNDECIDED, "what it was about is withheld or erased"),
    ],
)
def test_a_decision_on_something_else_is_none_of_this_record(
    what: dict[str, Any] | None, verdict: Verdict, why: str
) -> None:
    """However well it follows from its inputs: about another model than the call was to; unknown is no yes."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    (found,) = _again(decision, slices, policies, what=what)
    assert found.verdict is verdict
    assert found.why.startswith(why)


def test_a_refusal_without_a_reason_differs_where_the_policies_permit() -> None:
    """Nothing else that refused is told, so the policies are said to have."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    assert [found.verdict for found in _again(decision | {"outcome": "deny"}, slices, policies)] == [Verdict.DIFFERS]


@pytest.mark.parametrize(
    ("who", "of", "verdict", "why"),
    [
        ({"agent": "other"}, "", Verdict.DIFFERS, "recorded of other, decided for Agent triage"),
        ({"agent": "operator:triage"}, "", Verdict.DIFFERS, "recorded of operator:triage, decided for Agent triage"),
        ({"agent": ""}, "", Verdict.DIFFERS, "recorded of nobody, decided for Agent triage"),
        (None, "", Verdict.UNDECIDED, "whose decision it was is withheld or erased"),
        (None, "triage", Verdict.UNDECIDED, "whose decision it was is withheld or erased"),
        (MINE, "other", Verdict.DIFFERS, "recorded of triage, among the records of other"),
        (MINE, "triage", Verdict.AGREES, ""),
    ],
)
def test_a_decision_of_somebody_else_is_none_of_this_record(
    who: dict[str, Any] | None, of: str, verdict: Verdict, why: str
) -> None:
    """However well it follows from its inputs: for another agent, or in a package of another; unknown is no yes."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    (found,) = _again(decision, slices, policies, who=who, of=of)
    assert (found.verdict, found.why) == (verdict, why)


def test_an_enrolment_is_decided_for_evidence_and_nothing_else_is() -> None:
    """An agent's decision is no enrolment, whatever the record says that it was asked."""
    policies = shipped_set()
    decision, slices = _recorded(policies, agent())
    (found,) = _again(decision | {"action": "enrol"}, slices, policies)
    assert (found.verdict, found.why) == (Verdict.DIFFERS, "recorded of evidence, decided for Agent triage")
