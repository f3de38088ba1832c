"""Cases: read strictly, run against the real engine, and failing for what they say."""

from __future__ import annotations

import pytest

from broker.errors import PolicyInvalid
from broker.policy import case_files, cases
from broker.policy.cases import Case, CaseResult, Enrols
from broker.policy.engine import Entity, EntityRef, Policy
from tests.policy.world import compiled, shipped_set

AGENT = (
    "{type: Agent, id: triage, attrs: {owner: o, purpose: p, kind: agent, status: active,"
    " ceiling: [openai/gpt-4o], enrolled_by: ada}}"
)
MODEL = "{type: Model, id: openai/gpt-4o, attrs: {name: openai/gpt-4o, family: openai/*}}"
REQUEST = (
    "{principal: 'Agent::\"triage\"', action: call, resource: {type: Model, id: openai/gpt-4o},"
    " context: {operation: chat, stream: true, confirmation: dpop}}"
)


def text(expect: str = "permit", reasons: str = "[inside-ceiling]", more: str = "", request: str = REQUEST) -> str:
    """A file with one case."""
    return (
        f"- name: one\n  entities: [{AGENT}, {MODEL}]\n  request: {request}\n"
        f"  expect: {expect}\n  reasons: {reasons}\n{more}"
    )


def only(source: str) -> Case:
    """The one case of a file."""
    (case,) = cases.parse({"a.yaml": source})
    return case


def three() -> str:
    """A file with three cases."""
    return "".join(text().replace("name: one", f"name: one-{n}") for n in range(3))


def result(source: str) -> CaseResult:
    """What becomes of the one case of a file under the shipped set."""
    (found,) = cases.run(shipped_set(), [only(source)])
    return found


def test_a_case_that_holds_passes() -> None:
    """Answer and reasons as expected: passed, nothing to say."""
    found = result(text())
    assert (found.name, found.file, found.passed, found.message) == ("one", "a.yaml", True, "")
    assert found.got.policies == ("inside-ceiling",)


@pytest.mark.parametrize(
    ("source", "expected", "got"),
    [
        (text(expect="deny"), "deny by [inside-ceiling]", "permit by [inside-ceiling]"),
        (text(reasons="[]"), "permit by []", "permit by [inside-ceiling]"),
        (
            text(reasons="[inside-ceiling, other]"),
            "permit by [inside-ceiling, other]",
            "permit by [inside-ceiling]",
        ),
        (text("deny", "[outside-ceiling]"), "deny by [outside-ceiling]", "permit by [inside-ceiling]"),
        (
            text("deny", "[inactive-agents-call]", "  limited_by: ceiling\n").replace("active,", "suspended,"),
            "deny (ceiling) by [inactive-agents-call]",
            "deny (policy) by [inactive-agents-call]",
        ),
    ],
    ids=["answer", "missing reason", "reason too many", "everything", "limit"],
)
def test_a_case_that_does_not_hold_says_what_came(source: str, expected: str, got: str) -> None:
    """A wrong answer, a wrong reason and a wrong limit each fail, with expected and got side by side."""
    found = result(source)
    assert not found.passed
    assert found.message == f"expected {expected}; got {got}"


@pytest.mark.parametrize(
    "source",
    [
        text("deny", "[]", request=REQUEST.replace("triage", "stranger")),
        text("deny", "[]", request=REQUEST.replace("stream: true", "strem: true")),
        text("deny", "[]", request=REQUEST.replace("call", "cal")),
        text("deny", "[]").replace("owner: o,", ""),
    ],
    ids=["unknown agent", "misspelt fact", "misspelt action", "incomplete entity"],
)
def test_a_slip_in_a_case_does_not_pass_for_a_denial(source: str) -> None:
    """A denial by error passes only where the case expects that; the message says what went wrong."""
    found = result(source)
    assert not found.passed
    assert "deny (error) by []: " in found.message
    assert result(source + "  limited_by: error\n").passed


def test_running_is_deterministic() -> None:
    """The same cases against the same set give equal results, in their order."""
    found = cases.parse({"b.yaml": text(), "a.yaml": text(expect="deny")})
    assert [case.file for case in found] == ["a.yaml", "b.yaml"]
    assert cases.run(shipped_set(), found) == cases.run(shipped_set(), found)


def test_entities_of_a_file_are_shared_and_can_be_replaced() -> None:
    """A case sees its file's entities, and its own in place of one of the same type and id."""
    shared = (
        f"entities: [{AGENT}, {MODEL}]\ncases:\n"
        f"- {{name: first, request: {REQUEST}, expect: permit, reasons: [inside-ceiling]}}\n"
        f"- {{name: second, entities: [{AGENT.replace('active', 'suspended')}], request: {REQUEST},"
        " expect: deny, reasons: [inactive-agents-call]}\n"
    )
    found = cases.run(shipped_set(), cases.parse({"a.yaml": shared}))
    assert [case.message for case in found] == ["", ""]


def test_values_keep_their_kinds() -> None:
    """Texts, numbers, truth values, lists and references arrive as such, in context, attributes and tags."""
    case = only(
        """
- name: kinds
  entities:
    - {type: OidcEvidence, id: e, attrs: {issuer: i, subject: s}, tags: {"a b": "1"}, parents: ['Role::"r"']}
  request: {principal: 'OidcEvidence::"e"', action: enrol, resource: 'Attester::"a"',
            context: {lists: {type: ListClaims, id: l}, n: 3, b: true, t: [x, y]}}
  expect: deny
  reasons: []
"""
    )
    assert case.request.context == {
        "lists": EntityRef(("ListClaims", "l")),
        "n": 3,
        "b": True,
        "t": ["x", "y"],
    }
    assert case.entities == (
        Entity(("OidcEvidence", "e"), {"issuer": "i", "subject": "s"}, (("Role", "r"),), {"a b": "1"}),
    )


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        (text(more="  reason: x\n"), "case \"one\": a case has an unknown key 'reason'"),
        (text(more="  entites: []\n"), "unknown key 'entites'"),
        (text(request=REQUEST.replace("action", "acton")), "unknown key 'acton'"),
        (text().replace("attrs", "attributes"), "unknown key 'attributes'"),
        (text().replace("  expect: permit\n", ""), "needs expect"),
        (text().replace("  reasons: [inside-ceiling]\n", ""), "needs reasons"),
        (text(expect="allow"), "permit or deny"),
        (text(expect="[permit]"), "permit or deny"),
        (text(reasons="inside-ceiling"), "must be a list"),
        (text(reasons="[1]"), "must be a text"),
        (text(more="  limited_by: nobody\n"), "limited_by must be one of"),
        (text(more="  expect: deny\n"), "stands twice"),
        (text() + text(), "two cases are named"),
        (text(request=REQUEST.replace('Agent::"triage"', "triage")), 'must read Type::"id"'),
        (text().replace("id: triage", "id: 7"), "put it in quotes"),
        (text(more="  enrols: {agent: a}\n"), "enrols goes with"),
        ("just words", "must be a list"),
        ("cases: {}", "must be a list"),
        ("entities: []", "needs cases"),
        ("- [1]", "must be a mapping"),
        ("- name: &x one\n  request: *x", "aliases"),
        ("- {a: !!python/object/apply:os.system [ls]}", "not the YAML"),
        ("a: [", "not the YAML"),
        ("[" * 20_000, "not the YAML"),
    ],
)
def test_a_file_that_is_not_as_described_is_refused(source: str, complaint: str) -> None:
    """What the reader does not know it refuses, with the file and, where there is one, the case."""
    with pytest.raises(PolicyInvalid) as refused:
        cases.parse({"a.yaml": source})
    assert refused.value.detail.startswith("a.yaml: ")
    assert complaint in refused.value.detail


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"a.yaml": "#" * 600_000, "b.yaml": "#" * 600_000}, "more than 1000000 characters together"),
        ({"a.yaml": three(), "b.yaml": three()}, "b.yaml: more than 5 cases"),
        ({"a.yaml": "entities: [" + "{type: A, id: b}, " * 101 + "]\ncases: []"}, "101 entities"),
        ({"a.yaml": "entities: [{type: A, id: " + "b" * 20_000 + "}]\ncases: []"}, "shared entities"),
    ],
)
def test_cases_are_limited(files: dict[str, str], complaint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would keep a check busy for minutes is refused, before most of it is read."""
    monkeypatch.setattr(case_files, "MAX_CASES", 5)
    with pytest.raises(PolicyInvalid, match=complaint):
        cases.parse(files)


ENROLMENT = """
- name: fleet
  entities:
    - {type: OidcEvidence, id: e, attrs: {issuer: i, subject: s}, tags: {repository: acme/etl}}
    - {type: Attester, id: github, attrs: {kind: oidc}}
    - {type: ListClaims, id: l}
  request:
    principal: OidcEvidence::"e"
    action: enrol
    resource: Attester::"github"
    context: {lists: {type: ListClaims, id: l}}
  expect: permit
  reasons: [fleet]
"""
FLEET = (
    '@id("fleet") @agent_prefix("ci/") @agent_claims("repository")'
    ' @owner("platform") @ceiling("openai/* x/y")'
    ' permit (principal is OidcEvidence, action == Action::"enrol", resource)'
    ' when { principal.hasTag("repository") };'
)


@pytest.mark.parametrize(
    ("enrols", "passes"),
    [
        ("{agent: ci/acme%2Fetl}", True),
        ("{agent: ci/acme%2Fetl, owner: platform, ceiling: [x/y, openai/*]}", True),
        ("{agent: other}", False),
        ("{agent: ci/acme%2Fetl, owner: somebody}", False),
        ("{agent: ci/acme%2Fetl, ceiling: [openai/*]}", False),
    ],
)
def test_an_enrolment_case_states_the_agent(enrols: str, passes: bool) -> None:
    """Who the evidence turns out to be is compared, with owner and ceiling where the case states them."""
    policies = compiled(FLEET)
    case = only(f"{ENROLMENT}  enrols: {enrols}\n")
    (alone,) = cases.run(policies, [case])
    assert alone.passed is passes
    assert ("EnrolmentRule" in alone.message) is not passes


def test_the_name_of_a_fleets_agent_is_made_by_who_knows_how() -> None:
    """With the function that makes names, the whole name is compared and not the prefix only."""
    policies = compiled(FLEET)

    def names_agent(applied: tuple[Policy, ...], evidence: Entity) -> Enrols:
        assert [policy.id for policy in applied] == ["fleet"]
        return Enrols(f"ci/{(evidence.tags or {})['repository']}", "platform", ("openai/*", "x/y"))

    (right,) = cases.run(policies, [only(ENROLMENT + "  enrols: {agent: ci/acme/etl}\n")], names_agent)
    (wrong,) = cases.run(policies, [only(ENROLMENT + "  enrols: {agent: ci/acme/other}\n")], names_agent)
    assert right.passed
    assert not wrong.passed
    assert "ci/acme/other" in wrong.message
    assert "ci/acme/etl" in wrong.message


def test_untried_policies_are_named() -> None:
    """A policy that no case shows deciding, or none shows absent, is reported."""
    permitted = cases.parse({"a.yaml": text()})
    policies = compiled('@id("inside-ceiling") permit (principal is Agent, action == Action::"call", resource);')
    assert cases.unexercised(policies, []) == (
        "some.cedar, policy 'inside-ceiling': no case that it permits.",
        "some.cedar, policy 'inside-ceiling': no case that goes the other way without it.",
    )
    assert len(cases.unexercised(policies, permitted)) == 1
    both = cases.parse({"a.yaml": text(), "b.yaml": text("deny", "[]")})
    assert cases.unexercised(policies, both) == ()
