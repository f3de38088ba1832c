"""Explanations: the right decision, in words that need no Cedar."""

from __future__ import annotations

import json

from broker.policy import explain as explain_module
from broker.policy.engine import Entity, EntityRef, Request
from broker.policy.explain import Explanation, explain
from tests.policy.test_decide import OVERFLOW
from tests.policy.world import (
    GATEWAY,
    agent,
    call,
    compiled,
    exchange,
    extended,
    model,
    operator,
    shipped_set,
)


def explained(request: Request, *entities: Entity) -> Explanation:
    """The explanation under the shipped set."""
    return explain(shipped_set(), request, shipped_set().prepare(entities))


def test_a_permit_says_who_permitted() -> None:
    """The policy's id and title stand in the text."""
    found = explained(call(agent(), model()), agent(), model())
    assert found.decision.permitted
    assert found.summary.startswith('Permitted: Agent "triage" asks for call on Model "openai/gpt-4o-mini"')
    assert [line.text for line in found.lines] == [
        "Permitted by inside-ceiling (an agent may call the models its ceiling names)."
    ]


def test_a_refusal_gives_the_advice() -> None:
    """What the policy advises stands in the text and as a field."""
    found = explained(call(agent(), model("openai/gpt-4o")), agent(), model("openai/gpt-4o"))
    (line,) = found.lines
    assert (line.policy, line.effect, line.matched) == ("outside-ceiling", "forbid", True)
    assert line.advice
    assert line.text.startswith("Refused by outside-ceiling (")
    assert line.text.endswith(line.advice)
    assert "The ceiling stands in the way." in found.summary


def test_without_a_permit_the_closest_one_says_what_it_lacks() -> None:
    """The condition that does not hold is shown with the value that was there; other permits are left out."""
    found = explained(exchange(agent(), confirmation="none"), agent(), GATEWAY)
    assert "No policy permits this" in found.summary
    (line,) = found.lines
    assert (line.policy, line.matched) == ("agents-exchange", False)
    assert line.text.endswith(
        'would permit it if this held: context.confirmation == "dpop" (here context.confirmation is "none").'
    )


def test_closest_permits_are_ranked_by_what_they_lack() -> None:
    """The one that lacks least comes first, and not more than three are shown."""
    scope = '(principal is Agent, action == Action::"call", resource is Model)'
    policies = compiled(
        f'@id("two-short") permit {scope} when {{ context.stream && principal.owner == "x" }};',
        f'@id("one-short") permit {scope} when {{ context.stream && principal.kind == "agent" }};',
        f'@id("unless-short") permit {scope} unless {{ principal.owner == "y" || principal.kind == "agent" }};',
        f'@id("three-short") permit {scope}'
        ' when { context.stream && principal.owner == "x" && context.operation == "x" };',
    )
    found = explain(policies, call(agent(), model()), policies.prepare([agent(), model()]))
    assert [line.policy for line in found.lines] == ["one-short", "unless-short", "two-short"]
    assert 'not (principal.kind == "agent") (here principal.kind is "agent")' in found.lines[1].text


def test_permits_for_somebody_else_are_shown_when_there_are_no_others() -> None:
    """Scope constraints that do not hold are said as they stand in the policy."""
    policies = compiled(
        '@id("someone") permit (principal == Agent::"other", action == Action::"call",'
        ' resource in Endpoint::"anthropic");'
    )
    found = explain(policies, call(agent(), model()), policies.prepare([agent(), model()]))
    assert found.lines[0].text == (
        'someone would permit it if this held: principal == Agent::"other"; resource in Endpoint::"anthropic".'
    )


def test_claims_are_shown_with_their_values() -> None:
    """For evidence, the claims that a rule looks at are shown, or that they are not there."""
    policies = compiled(
        '@id("etl") @agent("etl") permit (principal is OidcEvidence, action == Action::"enrol", resource)'
        ' when { principal.hasTag("ref") && principal.getTag("ref") == "refs/heads/main" };'
    )
    attester, lists = Entity(("Attester", "a"), {"kind": "oidc"}), Entity(("ListClaims", "e"))

    def text(tags: dict[str, object]) -> str:
        evidence = Entity(("OidcEvidence", "e"), {"issuer": "i", "subject": "s"}, tags=tags)
        request = Request(evidence.uid, "enrol", attester.uid, {"lists": EntityRef(lists.uid)})
        return explain(policies, request, policies.prepare([evidence, attester, lists])).lines[0].text

    assert 'the principal\'s ref is "refs/heads/dev"' in text({"ref": "refs/heads/dev"})
    assert "the principal's ref is not there" in text({})


def test_a_failed_policy_is_named_with_what_went_wrong() -> None:
    """A denial by error names the policy, its file and Cedar's words."""
    policies = extended(extra=OVERFLOW)
    found = explain(policies, exchange(agent()), policies.prepare([agent(), GATEWAY]))
    assert found.decision.limited_by == "error"
    (line,) = found.lines
    assert line.policy == "overflowing"
    assert "extra.cedar" in line.text
    assert "overflow" in line.text


def test_a_request_that_cannot_be_decided_says_why() -> None:
    """An unknown agent, an unknown action and a wrong context are explained without a policy."""
    assert 'Nothing is known about Agent "stranger"' in explained(call(agent("stranger"), model()), model()).summary
    assert "no action 'delete'" in explained(Request(agent().uid, "delete", model().uid), agent(), model()).summary
    wrong = explained(call(agent(), model(), strem=True), agent(), model())
    assert "`strem` should not exist according to the schema" in wrong.summary
    assert wrong.lines == ()


def test_an_action_without_permits_says_so() -> None:
    """Where no permit is about the action, none is called the closest."""
    policies = compiled('@id("f") forbid (principal, action == Action::"call", resource) when { context.stream };')
    found = explain(policies, call(agent(), model()), policies.prepare([agent(), model()]))
    assert found.summary.endswith("No policy is about this action.")


def test_the_explained_decision_is_the_decision() -> None:
    """Explaining decides as deciding does."""
    policies = shipped_set()
    ada = operator("ada", "admin")
    entities = policies.prepare([agent(), agent("off", status="revoked"), model(), model("x/y"), GATEWAY, ada])
    for request in (
        call(agent(), model()),
        call(agent("off"), model()),
        call(agent(), model("x/y")),
        call(ada, model()),
        exchange(ada),
        exchange(agent(), confirmation="none"),
    ):
        assert explain(policies, request, entities).decision == policies.decide(request, entities)


def test_an_explanation_is_data_too() -> None:
    """The JSON form holds the decision, and each line with its fields; the text holds every line."""
    found = explained(call(agent(), model("openai/gpt-4o")), agent(), model("openai/gpt-4o"))
    data = json.loads(json.dumps(found.to_json()))
    assert (data["permitted"], data["limited_by"], data["policies"]) == (
        False,
        "ceiling",
        ["outside-ceiling"],
    )
    assert set(data["lines"][0]) == {"policy", "effect", "matched", "advice", "text"}
    assert found.text.splitlines() == [found.summary, f"  - {found.lines[0].text}"]


def test_only_some_permits_are_examined() -> None:
    """However many permits there are, an explanation looks at a bounded number of them."""
    many = "\n".join(
        f'@id("p{n}") permit (principal == Agent::"a{n}", action == Action::"call", resource);'
        for n in range(explain_module.MAX_EXAMINED)
    )
    near = '@id("near") permit (principal is Agent, action == Action::"call", resource) when { context.stream };'
    for files, closest in (({"a": near, "b": many}, ["near"]), ({"a": many, "b": near}, ["p0", "p1", "p10"])):
        policies = compiled(**files)
        found = explain(policies, call(agent(), model()), policies.prepare([agent(), model()]))
        assert [line.policy for line in found.lines] == closest
