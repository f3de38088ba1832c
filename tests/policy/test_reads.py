"""What the policies read of evidence: exactly what they look up, or nothing is left out."""

from __future__ import annotations

import pytest

from broker.policy.reads import Reads
from broker.policy.request import Entity
from tests.policy.world import compiled, shipped_set

SCOPE = 'permit (principal is OidcEvidence, action == Action::"enrol", resource == Attester::"platform")'


def _reads(condition: str, scope: str = SCOPE) -> Reads | None:
    return compiled(f'@id("a") @agent("a") {scope} when {{ {condition} }};').reads("enrol")


@pytest.mark.parametrize(
    ("condition", "tags", "lists"),
    [
        ('principal.subject == "job"', set(), set()),
        ('principal.hasTag("ref") && principal.getTag("ref") == "main"', {"ref"}, set()),
        ('principal.hasTag("a") || !principal.hasTag("b")', {"a", "b"}, set()),
        ('if principal.hasTag("a") then principal.getTag("a") like "x*" else false', {"a"}, set()),
        ('["x", "y"].contains(principal.issuer) && principal.hasTag("a/b~1c")', {"a/b~1c"}, set()),
        ('context.lists.hasTag("g") && context.lists.getTag("g").contains("q")', set(), {"g"}),
        ('principal.hasTag("g") && context.lists.hasTag("h")', {"g"}, {"h"}),
        ('{a: principal.hasTag("r")}.a', {"r"}, set()),
    ],
)
def test_the_tags_that_are_looked_up_are_found(condition: str, tags: set[str], lists: set[str]) -> None:
    """Wherever in an expression a literal name stands, its tag is kept, under whom it was looked up."""
    assert _reads(condition) == Reads(frozenset(tags), frozenset(lists))


@pytest.mark.parametrize(
    "condition",
    [
        "principal.hasTag(principal.subject)",
        'principal.hasTag("a") && principal.hasTag(principal.getTag("a"))',
        "context.lists.hasTag(principal.subject)",
        'principal == OidcEvidence::"x"',
        'principal in OidcEvidence::"x"',
        '[OidcEvidence::"x"].contains(principal)',
        "{a: principal}.a == principal",
        'context.lists == ListClaims::"x"',
        'if true then principal.hasTag("a") else OidcEvidence::"x" == principal',
    ],
)
def test_what_cannot_be_told_from_the_text_leaves_nothing_out(condition: str) -> None:
    """A computed name, or a look at the evidence's own id, and evidence is evaluated whole."""
    assert _reads(condition) is None


@pytest.mark.parametrize("scope", ['principal == OidcEvidence::"x"', 'principal is OidcEvidence in OidcEvidence::"x"'])
def test_a_scope_that_names_one_evidence_leaves_nothing_out(scope: str) -> None:
    """The id of evidence can stand in a policy's scope too."""
    text = f'permit ({scope}, action == Action::"enrol", resource)'
    assert _reads("true", text) is None


def test_one_policy_that_cannot_be_told_decides_for_all() -> None:
    """Forbids count like permits, and so do policies on every action."""
    rule = f'@id("a") @agent("a") {SCOPE} when {{ principal.hasTag("x") }};'
    forbid = '@id("f") forbid (principal, action, resource) when { principal == OidcEvidence::"x" };'
    assert compiled(rule).reads("enrol") is not None
    assert compiled(rule, forbid).reads("enrol") is None


def test_the_longest_condition_is_read() -> None:
    """As long as a policy may be: its text is nested once for each operator, and is read to its end."""
    assert _reads(" && ".join(['principal.hasTag("a")'] * 80 + ['principal.hasTag("z")'])) == (
        Reads(frozenset({"a", "z"}), frozenset())
    )


def test_a_set_without_rules_reads_nothing() -> None:
    """The shipped policies say nothing of evidence that they could not be narrowed for."""
    assert shipped_set().reads("enrol") is not None


def test_narrowed_evidence_keeps_attributes_and_what_is_read() -> None:
    """Under one id for all, so that equal evidence is equal."""
    of = Entity(("OidcEvidence", "digest"), {"issuer": "i", "subject": "s"}, tags={"ref": "main", "jti": "1"})
    lists = Entity(("ListClaims", "digest"), {}, tags={"groups": ["a"], "roles": ["b"]})
    principal, kept = Reads(frozenset({"ref", "absent"}), frozenset({"roles"})).narrowed(of, lists)
    assert (principal.attrs, principal.tags) == (of.attrs, {"ref": "main"})
    assert kept.tags == {"roles": ["b"]}
    assert {principal.uid[1], kept.uid[1]}.isdisjoint({"digest"})
