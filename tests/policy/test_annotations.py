"""Annotations: what they may say, and the enrolment rule that they make."""

from __future__ import annotations

import pytest

from broker.errors import PolicyInvalid
from broker.policy.annotations import EnrolmentRule, enrolment_rule
from tests.policy.world import compiled

SCOPE = 'permit (principal is OidcEvidence, action == Action::"enrol", resource)'
CALLS = '(principal is Agent, action == Action::"call", resource)'


def rule(notes: str) -> EnrolmentRule:
    """The rule that a permit on enrol with these annotations makes."""
    return enrolment_rule(compiled(f'@id("r") {notes} {SCOPE};').policies[0])


def test_a_rule_for_one_agent() -> None:
    """@agent names one agent, and owner, purpose and ceiling come along."""
    notes = '@agent("nightly") @owner("team-data") @purpose("sums up") @ceiling("openai/gpt-4o  anthropic/*")'
    assert rule(notes) == EnrolmentRule(
        "r", "nightly", "", (), "team-data", "sums up", ("openai/gpt-4o", "anthropic/*")
    )


def test_a_rule_for_a_fleet() -> None:
    """@agent_claims lists the claims in their order, under a prefix."""
    found = rule('@agent_prefix("ci/") @agent_claims("repository, environment")')
    assert (found.agent, found.prefix, found.claims) == (None, "ci/", ("repository", "environment"))
    assert (found.owner, found.purpose, found.ceiling) == (None, None, None)


@pytest.mark.parametrize(
    "notes",
    [
        "",
        '@agent("a") @agent_claims("sub")',
        '@agent("a") @agent_prefix("ci/")',
        '@agent_prefix("ci/")',
        '@agent("")',
        '@agent("a b")',
        '@agent("/a")',
        f'@agent("{"a" * 201}")',
        '@agent_claims("")',
        '@agent_claims("a,,b")',
        '@agent_claims("a,a")',
        '@agent_claims("a b")',
        '@agent_claims("sub") @agent_prefix("ci")',
        '@agent_claims("sub") @agent_prefix("/")',
        '@agent_claims("sub") @agent_prefix("ci//")',
        '@agent("a") @owner("o")',
        '@agent("a") @ceiling("openai/*")',
        '@agent("a") @purpose("p")',
        '@agent("a") @owner("o") @ceiling("")',
        '@agent("a") @owner("o") @ceiling("*")',
        '@agent("a") @owner("o") @ceiling("openai")',
        '@agent("a") @owner("o") @ceiling("openai/")',
        '@agent("a") @owner("o") @ceiling("openai/gpt-*")',
        '@agent("a") @owner("o") @ceiling("*/gpt-4o")',
        '@agent("a") @owner("o") @ceiling("openai/a,openai/b")',
    ],
)
def test_a_rule_that_does_not_say_who_is_refused(notes: str) -> None:
    """A rule names exactly one agent or makes names of claims, and its ceiling is well-formed."""
    with pytest.raises(PolicyInvalid, match=r'some\.cedar, line 1, policy "r"'):
        rule(notes)


@pytest.mark.parametrize(
    "scope",
    [
        "(principal, action, resource)",
        '(principal, action in [Action::"enrol", Action::"call"], resource)',
    ],
)
def test_a_permit_reaches_enrolment_only_on_purpose(scope: str) -> None:
    """A permit on every action, or on enrol among others, would enrol evidence as nobody knows whom."""
    with pytest.raises(PolicyInvalid, match="enrolment rule"):
        compiled(f'@id("r") permit {scope};')
    with pytest.raises(PolicyInvalid, match="enrolment rule"):
        compiled(f'@id("r") @agent("a") permit {scope};')
    compiled(f'@id("r") forbid {scope};')


def test_a_policy_that_is_no_rule_cannot_be_read_as_one() -> None:
    """Reading a rule off another policy is refused."""
    with pytest.raises(PolicyInvalid, match="enrolment rule"):
        enrolment_rule(compiled(f'@id("r") permit {CALLS};').policies[0])


@pytest.mark.parametrize("note", ['@agent("a")', '@owner("o")', '@ceiling("openai/*")', '@agent_claims("sub")'])
def test_what_belongs_to_rules_is_refused_elsewhere(note: str) -> None:
    """An annotation that would have no effect where it stands is refused."""
    with pytest.raises(PolicyInvalid, match="enrolment rules"):
        compiled(f'@id("x") {note} permit {CALLS};')
    with pytest.raises(PolicyInvalid, match="enrolment rules"):
        compiled(f'@id("x") {note} {SCOPE.replace("permit", "forbid")};')


@pytest.mark.parametrize(
    ("note", "hint"),
    [
        ('@cieling("openai/*")', "did you mean @ceiling"),
        ('@agent_claim("sub")', "did you mean @agent_claims"),
        ('@ID("x")', "known are"),
        ('@comment("x")', "known are"),
    ],
)
def test_an_unknown_annotation_is_refused(note: str, hint: str) -> None:
    """A misspelt annotation is refused, with what may have been meant."""
    with pytest.raises(PolicyInvalid, match=hint):
        compiled(f'@id("x") {note} permit {CALLS};')


@pytest.mark.parametrize(
    ("effect", "factor"), [("permit", "ceiling"), ("forbid", "cieling"), ("forbid", "budget"), ("permit", "")]
)
def test_only_a_forbid_is_the_ceiling(effect: str, factor: str) -> None:
    """@factor changes what a denial is called, so it is taken in one place only."""
    with pytest.raises(PolicyInvalid, match="@factor"):
        compiled(f'@id("x") @factor("{factor}") {effect} {CALLS};')


@pytest.mark.parametrize("value", ["", "  ", "two\\nlines", "bell\\u{7}", "x" * 501])
def test_a_text_is_one_readable_line(value: str) -> None:
    """Titles and advice are shown in terminals and logs."""
    with pytest.raises(PolicyInvalid, match="@title"):
        compiled(f'@id("x") @title("{value}") permit {CALLS};')


@pytest.mark.parametrize("name", [" ", "a b", "-a", "é", "a\\n", "x" * 121])
def test_an_id_is_plain(name: str) -> None:
    """Ids stand in records, URLs and file names."""
    with pytest.raises(PolicyInvalid, match="@id"):
        compiled(f'@id("{name}") permit {CALLS};')
