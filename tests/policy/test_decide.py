"""Decisions: what is permitted, what is denied, and what each rests on."""

from __future__ import annotations

import dataclasses

import pytest

from broker.errors import AccessDenied
from broker.policy import engine
from broker.policy.engine import Entity, EntityRef, Request
from tests.policy.world import (
    API,
    BROKER,
    GATEWAY,
    agent,
    call,
    compiled,
    exchange,
    extended,
    model,
    operator,
    shipped_files,
    shipped_set,
)

OVERFLOW = """
@id("overflowing")
forbid (principal is Agent, action == Action::"exchange", resource)
when { context.lifetime_s + 9223372036854775807 > 0 };
"""
PERMIT_CALLS = '@id("calls") permit (principal is Agent, action == Action::"call", resource);'


def test_a_permit_names_the_policy_that_gave_it() -> None:
    """A permitted call rests on the ids of its permits, and on the hash of the set."""
    policies = shipped_set()
    decision = policies.decide(call(agent(), model()), policies.prepare([agent(), model()]))
    assert decision == engine.Decision(True, ("inside-ceiling",), policies.hash, "")


def test_a_whole_endpoint_in_the_ceiling_covers_its_models_only() -> None:
    """`openai/*` lets every model of that endpoint through and none of another."""
    policies = shipped_set()
    who = agent(ceiling=["openai/*"])
    other = model("openai-eu/gpt-4o")
    entities = policies.prepare([who, model("openai/o3"), other])
    assert policies.decide(call(who, model("openai/o3")), entities).permitted
    assert policies.decide(call(who, other), entities).limited_by == "ceiling"


@pytest.mark.parametrize("entry", ["openai/gpt-4o-min", "openai/gpt*", "*", "*/*", "OPENAI/gpt-4o-mini", "openai/"])
def test_ceiling_entries_compare_equal_and_nothing_else(entry: str) -> None:
    """Only the exact name and the exact `endpoint/*` match; there is no other wildcard."""
    policies = shipped_set()
    who = agent(ceiling=[entry])
    decision = policies.decide(call(who, model()), policies.prepare([who, model()]))
    assert (decision.permitted, decision.policies) == (False, ("outside-ceiling",))


def test_a_forbid_is_not_called_the_ceiling_when_another_forbid_applies_too() -> None:
    """`limited_by` is "ceiling" only where a wider ceiling alone would have helped."""
    policies = shipped_set()
    who = agent(status="suspended", ceiling=[])
    decision = policies.decide(call(who, model()), policies.prepare([who, model()]))
    assert decision.policies == ("inactive-agents-call", "outside-ceiling")
    assert decision.limited_by == "policy"


def test_what_no_policy_permits_is_denied() -> None:
    """Deny by default: an empty set permits nothing, and says that no policy spoke."""
    policies = engine.compile(shipped_files().schema, {})
    decision = policies.decide(call(agent(), model()), policies.prepare([agent(), model()]))
    assert (decision.permitted, decision.policies, decision.limited_by) == (False, (), "no-policy")


@pytest.mark.parametrize(
    "request_",
    [
        call(agent("stranger"), model()),
        call(agent(), model("openai/made-up")),
        Request(agent().uid, "delete", model().uid),
        Request(agent().uid, "operate", model().uid),
        Request(agent().uid, "", model().uid),
    ],
    ids=["unknown agent", "unknown model", "unknown action", "a mere group of actions", "no action"],
)
def test_the_unknown_is_denied_even_where_everything_is_permitted(request_: Request) -> None:
    """An agent, a model or an action that nobody described is refused, though a policy permits all calls."""
    policies = compiled(PERMIT_CALLS)
    entities = policies.prepare([agent(), model()])
    assert policies.decide(call(agent(), model()), entities).permitted
    decision = policies.decide(request_, entities)
    assert (decision.permitted, decision.limited_by) == (False, "error")


def test_list_claims_that_nobody_described_are_an_error() -> None:
    """A context that points to an entity which is not there is refused: a forbid on it would not apply."""
    policies = compiled(
        '@id("key") @agent_claims("agent") permit (principal, action == Action::"enrol", resource);',
        '@id("not-banned") forbid (principal, action == Action::"enrol", resource)'
        ' when { context.lists.hasTag("groups") && context.lists.getTag("groups").contains("banned") };',
    )
    key = Entity(("KeyEvidence", "k"), {"agent": "triage", "thumbprint": "t"})
    attester = Entity(("Attester", "keys"), {"kind": "key"})
    entities = policies.prepare([key, attester])
    request = Request(key.uid, "enrol", attester.uid, {"lists": EntityRef(("ListClaims", "k"))})
    assert policies.decide(request, entities).limited_by == "error"
    known = policies.prepare([key, attester, Entity(("ListClaims", "k"), tags={"groups": ["staff"]})])
    assert policies.decide(request, known).permitted
    banned = policies.prepare([key, attester, Entity(("ListClaims", "k"), tags={"groups": ["staff", "banned"]})])
    assert policies.decide(request, banned).policies == ("not-banned",)


@pytest.mark.parametrize(
    "changes",
    [
        {"stream": "yes"},
        {"unknown_fact": True},
        {"operation": {"__entity": {"type": "Agent", "id": "triage"}}},
        {"operation": None},
        {"operation": 1.5},
        {"operation": b"chat"},
        {"operation": "\ud800"},
        {"stream": EntityRef(("Agent", "triage"))},
    ],
    ids=repr,
)
def test_a_request_that_does_not_fit_the_vocabulary_is_denied(changes: dict[str, object]) -> None:
    """The context is checked against the vocabulary on every decision; what does not fit is an error."""
    policies = compiled(PERMIT_CALLS)
    request = call(agent(), model(), **changes)
    decision = policies.decide(request, policies.prepare([agent(), model()]))
    assert (decision.permitted, decision.limited_by) == (False, "error")


def test_a_missing_fact_is_denied() -> None:
    """A context without a field that the vocabulary asks for is an error, not a field that is empty."""
    policies = compiled(PERMIT_CALLS)
    request = dataclasses.replace(call(agent(), model()), context={"operation": "chat", "stream": True})
    assert policies.decide(request, policies.prepare([agent(), model()])).limited_by == "error"


@pytest.mark.parametrize("lifetime_s", [2**63, 2**64, -(2**63) - 1])
def test_a_number_beyond_cedars_range_is_denied(lifetime_s: int) -> None:
    """Whole numbers outside 64 bits with sign are an error."""
    policies = shipped_set()
    request = exchange(agent(), lifetime_s=lifetime_s)
    assert policies.decide(request, policies.prepare([agent(), GATEWAY])).limited_by == "error"


def test_a_principal_of_the_wrong_type_is_denied() -> None:
    """An operator cannot call a model: the vocabulary has no such request."""
    policies = compiled('@id("all") permit (principal, action == Action::"call", resource);')
    ada = operator("ada", "admin")
    decision = policies.decide(call(ada, model()), policies.prepare([ada, model()]))
    assert (decision.permitted, decision.limited_by) == (False, "error")


def test_a_policy_that_fails_denies_though_another_permits() -> None:
    """A forbid that cannot be evaluated is never taken for one that does not apply. Fails closed."""
    policies = extended(extra=OVERFLOW)
    decision = policies.decide(exchange(agent()), policies.prepare([agent(), GATEWAY]))
    assert (decision.permitted, decision.policies, decision.limited_by) == (False, ("overflowing",), "error")


def test_the_failing_policy_is_named_wherever_it_stands() -> None:
    """With more than ten policies before it, the failing one is still the one that is named."""
    many = "\n".join(
        f'@id("filler-{n}") permit (principal is Agent, action == Action::"exchange", resource)'
        f' when {{ context.attester == "other-{n}" }};'
        for n in range(25)
    )
    policies = compiled(a=many, b=OVERFLOW, c=many.replace("filler", "later"))
    decision = policies.decide(exchange(agent()), policies.prepare([agent(), GATEWAY]))
    assert decision.policies == ("overflowing",)


def test_a_forbid_that_applied_is_named_beside_one_that_failed() -> None:
    """A denial with an error shows both: the policy that failed and the one that would have denied anyway."""
    policies = extended(extra=OVERFLOW)
    who = agent(status="revoked")
    decision = policies.decide(exchange(who), policies.prepare([who, GATEWAY]))
    assert decision.policies == ("inactive-agents-exchange", "overflowing")
    assert decision.limited_by == "error"


def test_reasons_stay_when_policies_move() -> None:
    """Reasons are `@id`s and not positions: other order, other files, the same reasons."""
    first = '@id("first") permit (principal is Agent, action == Action::"call", resource);'
    second = '@id("second") permit (principal, action == Action::"call", resource is Model);'
    never = '@id("never") permit (principal, action == Action::"call", resource) when { context.stream };'
    found = set()
    for policies in (
        compiled(first, second, never),
        compiled(never, second, first),
        compiled(a=second, b=never, c=first),
        compiled(z=second, b=first, c=never),
    ):
        entities = policies.prepare([agent(), model()])
        found.add(policies.decide(call(agent(), model()), entities).policies)
    assert found == {("first", "second")}


def test_policies_of_another_action_do_not_enter_a_slice() -> None:
    """A thousand policies about operators leave a call's decision with the policies about calls."""
    crowd = "\n".join(
        f'@id("crowd-{n}") permit (principal == Operator::"o{n}",'
        ' action in [Action::"read", Action::"contain"], resource);'
        for n in range(1000)
    )
    policies = extended(crowd=crowd)
    assert [policy.id for policy in policies.deciding("call")] == [
        policy.id for policy in shipped_set().deciding("call")
    ]
    prepared = policies._slices["call"]
    assert len(prepared.handle) == len(prepared.policies) == 3
    assert len(policies._slices["contain"].handle) == 1000 + len(shipped_set().deciding("contain"))


def test_slices_hold_what_can_decide_their_action() -> None:
    """A policy is in the slices of the actions and groups that it names, or in all if it names none."""
    policies = compiled(
        '@id("one") permit (principal, action == Action::"read", resource);',
        '@id("two") permit (principal, action in [Action::"call", Action::"read"], resource);',
        '@id("group") forbid (principal, action in Action::"operate", resource);',
        '@id("all") forbid (principal, action, resource);',
    )
    assert {action: [policy.id for policy in policies.deciding(action)] for action in policies.actions} == {
        "approve": ["group", "all"],
        "call": ["two", "all"],
        "contain": ["group", "all"],
        "enrol": ["all"],
        "erase": ["group", "all"],
        "exchange": ["all"],
        "propose": ["group", "all"],
        "read": ["one", "two", "group", "all"],
        "readGroup": ["group", "all"],
        "readTrail": ["group", "all"],
    }


def test_groups_of_groups_are_followed() -> None:
    """An action that is in a group through another group is found by a policy on the outer one."""
    schema = """
        entity User; entity Thing;
        action outer; action inner in [outer];
        action look in [inner] appliesTo { principal: [User], resource: [Thing] };
    """
    policies = engine.compile(
        schema, {"a.cedar": '@id("outer") permit (principal, action in Action::"outer", resource);'}
    )
    user, thing = Entity(("User", "u")), Entity(("Thing", "t"))
    decision = policies.decide(Request(user.uid, "look", thing.uid), policies.prepare([user, thing]))
    assert decision.policies == ("outer",)


def test_every_rule_that_applies_is_returned() -> None:
    """Two enrolment rules that fit the same evidence are both reported, so that a contradiction shows."""
    policies = compiled(
        '@id("by-repository") @agent("etl")'
        ' permit (principal is OidcEvidence, action == Action::"enrol", resource)'
        ' when { principal.hasTag("repository") && principal.getTag("repository") == "acme/etl" };',
        '@id("by-owner") @agent_prefix("ci/") @agent_claims("repository")'
        ' permit (principal is OidcEvidence, action == Action::"enrol", resource)'
        ' when { principal.hasTag("repository_owner") && principal.getTag("repository_owner") == "acme" };',
        '@id("other") @agent("x") permit (principal is KeyEvidence, action == Action::"enrol", resource);',
    )
    evidence = Entity(
        ("OidcEvidence", "e"),
        {"issuer": "https://issuer.example", "subject": "repo:acme/etl"},
        tags={"repository": "acme/etl", "repository_owner": "acme"},
    )
    attester, lists = Entity(("Attester", "github"), {"kind": "oidc"}), Entity(("ListClaims", "e"))
    request = Request(evidence.uid, "enrol", attester.uid, {"lists": EntityRef(lists.uid)})
    applied = policies.applying(request, policies.prepare([evidence, attester, lists]))
    assert [(policy.id, policy.annotations.get("agent")) for policy in applied] == [
        ("by-owner", None),
        ("by-repository", "etl"),
    ]


def test_nothing_applies_to_a_denied_request() -> None:
    """A permit that a forbid outweighs is not reported as applying."""
    policies = shipped_set()
    who = agent(status="suspended")
    assert policies.applying(call(who, model()), policies.prepare([who, model()])) == ()


def test_applying_raises_when_something_cannot_be_evaluated() -> None:
    """An enrolment is never named by a set of which a policy failed. Fails closed."""
    policies = extended(extra=OVERFLOW)
    with pytest.raises(AccessDenied) as refused:
        policies.applying(exchange(agent()), policies.prepare([agent(), GATEWAY]))
    assert refused.value.reason == "policy_error"


def test_a_tag_is_a_text_under_a_free_name() -> None:
    """`hasTag` tells an absent claim from an empty one, and claim names may hold any characters."""
    policies = compiled(
        '@id("empty") @agent("x") permit (principal is OidcEvidence, action == Action::"enrol", resource)'
        ' when { principal.hasTag("https://a.example/c l")'
        ' && principal.getTag("https://a.example/c l") == "" };'
    )
    attester, lists = Entity(("Attester", "a"), {"kind": "oidc"}), Entity(("ListClaims", "e"))

    def permitted(tags: dict[str, object]) -> bool:
        evidence = Entity(("OidcEvidence", "e"), {"issuer": "i", "subject": "s"}, tags=tags)
        request = Request(evidence.uid, "enrol", attester.uid, {"lists": EntityRef(lists.uid)})
        return policies.decide(request, policies.prepare([evidence, attester, lists])).permitted

    assert permitted({"https://a.example/c l": ""})
    assert not permitted({"https://a.example/c l": "full"})
    assert not permitted({})


def test_operators_who_are_not_active_are_stopped_everywhere() -> None:
    """The forbid on inactive operators covers the whole group of operator actions and the exchange."""
    policies = shipped_set()
    left = operator("left", "admin", "auditor", status="suspended")
    entities = policies.prepare([left, BROKER, API])
    actions = [action for action in policies.actions if action not in {"call", "enrol", "exchange"}]
    contexts = {"readGroup": {"group": "what"}}
    requests = [Request(left.uid, action, BROKER.uid, contexts.get(action, {})) for action in actions]
    requests.append(exchange(left, API))
    assert len(requests) == 8
    assert {policies.decide(request, entities).policies for request in requests} == {("inactive-operators",)}
