"""Kept enrolments: like evidence has the answer of the rules in force, and evidence that differs has its own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from broker.errors import AccessDenied
from broker.identity.attesters import Attested
from broker.identity.attesters.attester import parse
from broker.identity.attesters.oidc import attested
from broker.identity.enrolment import Enrolled, Enrolment, NotEnrolled
from broker.policy.engine import PolicySet
from tests.policy.world import compiled

PLATFORM = parse("platform", {"kind": "oidc", "issuer": "https://ci.example", "audience": "https://broker.example"})
OTHER = parse("other", {"kind": "oidc", "issuer": "https://ci.example", "audience": "https://broker.example"})
MAIN = """@id("main") @agent("builder") permit (principal, action == Action::"enrol", resource == Attester::"platform")
when { principal is OidcEvidence && principal.hasTag("ref") && principal.getTag("ref") == "main" };"""
BY_REPOSITORY = """@id("repo") @agent_prefix("ci/") @agent_claims("repository")
permit (principal is OidcEvidence, action == Action::"enrol", resource) when { principal.hasTag("ref") };"""


def _evidence(token: str = "a.b.c", **claims: Any) -> Attested:
    return attested(token, PLATFORM, {"sub": "job", "exp": 2e9, "ref": "main", **claims})


def _agent(enrolment: Enrolment, policies: PolicySet, evidence: Attested) -> str:
    return enrolment.ruling(evidence, PLATFORM, policies).enrolled(evidence, PLATFORM).agent


def test_like_evidence_has_the_answer_of_the_first() -> None:
    """What no rule reads (ids, times) changes nothing."""
    enrolment, policies = Enrolment(), compiled(MAIN)
    first = enrolment.ruling(_evidence(), PLATFORM, policies).enrolled(_evidence(), PLATFORM)
    assert first == Enrolled("builder", ("main",))
    assert (
        enrolment.ruling(_evidence("d.e.f", jti="2", run="7"), PLATFORM, policies).enrolled(
            _evidence("d.e.f", jti="2", run="7"), PLATFORM
        )
        == first
    )


@pytest.mark.parametrize("changed", [{"ref": "feature"}, {"ref": None}, {"ref": {"x": "main"}}])
def test_evidence_that_differs_in_what_is_read_is_asked_for_anew(changed: dict[str, Any]) -> None:
    """Another value, or none, is another question, whichever came first."""
    for order in ((True, False), (False, True)):
        enrolment, policies = Enrolment(), compiled(MAIN)
        for good in (*order, *order):
            if good:
                assert _agent(enrolment, policies, _evidence()) == "builder"
            else:
                with pytest.raises(NotEnrolled):
                    _agent(enrolment, policies, _evidence(**changed))


def test_lists_count_when_they_are_read() -> None:
    """Of two alike but for a list that a rule looks into, each gets its own answer."""
    rule = """@id("g") @agent("a") permit (principal is OidcEvidence, action == Action::"enrol", resource)
    when { context.lists.hasTag("groups") && context.lists.getTag("groups").contains("ml") };"""
    enrolment, policies = Enrolment(), compiled(rule)
    assert _agent(enrolment, policies, _evidence(groups=["ml", "x"])) == "a"
    with pytest.raises(NotEnrolled):
        _agent(enrolment, policies, _evidence(groups=["x"]))


def test_a_name_is_made_of_the_evidence_that_is_shown() -> None:
    """Claims that make the name are taken from each evidence, also when the same rule applied before."""
    enrolment, policies = Enrolment(), compiled(BY_REPOSITORY)
    assert [_agent(enrolment, policies, _evidence(repository=name)) for name in ("a", "b")] == ["ci/a", "ci/b"]


def test_another_attester_is_another_question() -> None:
    """The same claims from another attester are not what a rule on the first one permits."""
    enrolment, policies = Enrolment(), compiled(MAIN)
    assert _agent(enrolment, policies, _evidence()) == "builder"
    with pytest.raises(NotEnrolled):
        enrolment.ruling(_evidence(), OTHER, policies).enrolled(_evidence(), OTHER)


def test_a_changed_set_is_asked_anew() -> None:
    """Rules that are gone name nobody any more, from the next evidence on, and a rollback brings them back."""
    enrolment, rules, none = Enrolment(), compiled(MAIN), compiled(BY_REPOSITORY)
    assert _agent(enrolment, rules, _evidence()) == "builder"
    with pytest.raises(NotEnrolled):
        _agent(enrolment, none, _evidence())
    assert _agent(enrolment, rules, _evidence()) == "builder"


def test_a_rule_may_still_ban_one_piece_of_evidence() -> None:
    """A forbid that names evidence by its id is obeyed: nothing is kept then."""
    banned = hashlib.sha256(b"x.y.z").hexdigest()
    forbid = f'@id("ban") forbid (principal, action, resource) when {{ principal == OidcEvidence::"{banned}" }};'
    enrolment, policies = Enrolment(), compiled(MAIN, forbid)
    assert _agent(enrolment, policies, _evidence()) == "builder"
    with pytest.raises(NotEnrolled):
        _agent(enrolment, policies, _evidence("x.y.z"))


def test_rules_that_cannot_be_evaluated_are_not_kept() -> None:
    """An error is a refusal each time. Fails closed."""
    rule = """@id("long") @agent("a") permit (principal is OidcEvidence, action == Action::"enrol", resource)
    when { context.lists.hasTag("n") && 9223372036854775807 + (if principal.hasTag("ref") then 1 else 0) > 0 };"""
    enrolment, policies = Enrolment(), compiled(rule)
    for _ in range(2):
        with pytest.raises(AccessDenied):
            _agent(enrolment, policies, _evidence(n=["1"]))


def test_what_is_kept_is_bounded() -> None:
    """Evidence of ever new kinds takes no more memory than the capacity, and is answered all the same."""
    enrolment, policies = Enrolment(capacity=3), compiled(MAIN)
    for number in range(10):
        with pytest.raises(NotEnrolled):
            _agent(enrolment, policies, _evidence(ref=f"r{number}"))
    assert len(enrolment) == 3
    assert _agent(enrolment, policies, _evidence()) == "builder"
