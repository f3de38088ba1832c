"""Who may be the second person, and what a change must leave in place for people. Each question goes to the policies.

A role is a name; what counts is whom the policies let approve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from broker.changes.plan import Plan
from broker.errors import Malformed, ManifestInvalid, PolicyInvalid
from broker.identity.attesters.attester import REGISTERED_KEYS
from broker.identity.operators import Operator
from broker.policy.decided import Decided, cut, told
from broker.policy.engine import PolicySet
from broker.policy.request import Entity, Request
from broker.tokens.issue import TokenRules

_BROKER = Entity(("Broker", "this"))


def may(policies: PolicySet, operator: Operator, action: str) -> bool:
    """Whether the policies let an operator do `action` to the broker."""
    return asked(policies, operator, action).permitted


def asked(policies: PolicySet, operator: Operator, action: str) -> Decided:
    """What the policies say of it, as records tell it."""
    request, entities = Request(operator.uid, action, _BROKER.uid), [operator.entity(), _BROKER]
    decision = policies.decide(request, policies.prepare(entities))
    return told(request, decision, cut(operator.uid, _BROKER.uid, entities))


def others(policies: PolicySet, operators: Iterable[Operator], by: Operator) -> frozenset[str]:
    """The operators beside `by` who have signed in and may approve.

    Suspended ones count: else an admin could suspend the only other one, and then widen access alone.
    """
    return frozenset(
        operator.name
        for operator in operators
        if operator.name != by.name and operator.keys and may(policies, replace(operator, status="active"), "approve")
    )


def names_its_keys(plan: Plan) -> None:
    """Refuses a sign-in link that any key may spend: whoever is handed the code would become a second person.

    Raises:
        ManifestInvalid: names the operator, and says how to come by a key.
    """
    for name, thumbprint in plan.links.items():
        if not thumbprint:
            raise ManifestInvalid(
                f"operator {name}: say which key may spend the link, for whoever approves this is handed its code. "
                "Add `key:` with the thumbprint that `broker login --new-key` prints on that person's machine."
            )


def leaves_a_way_back(
    policies: PolicySet, operators: Mapping[str, Operator], by: Operator, rules: TokenRules, *, alone: bool
) -> None:
    """Refuses a set that would lock out whoever puts it in force: nobody could roll it back. Fails closed.

    Args:
        policies: the set to come.
        operators: everybody, as they are to be.
        by: who puts it in force.
        rules: which audience is the API.
        alone: nobody else may approve under the set in force, so that nobody needs to under this one.

    Raises:
        PolicyInvalid: under this set, `by` could not come in and propose another, or nobody else could approve it.
    """
    by = operators.get(by.name, by)
    try:
        proposes, comes_in = may(policies, by, "propose"), _gets_a_token(policies, by, rules)
        approvers = others(policies, operators.values(), by)
    except Malformed as error:
        raise PolicyInvalid(f"The vocabulary does not fit the broker's own operators: {error.detail}") from error
    if not proposes:
        raise PolicyInvalid("Under this set you could not propose changes any more. Keep a permit on `propose` for it.")
    if not comes_in:
        raise PolicyInvalid(
            "Under this set you could get no token for the API any more. Keep a permit on `exchange` for it, where "
            '`resource.kind == "api"` and `context.confirmation == "dpop"`.'
        )
    if not alone and not approvers:
        raise PolicyInvalid(
            "Under this set nobody else who has signed in could approve changes any more. Keep a permit on `approve` "
            "for at least one other operator."
        )


def _gets_a_token(policies: PolicySet, operator: Operator, rules: TokenRules) -> bool:
    context: dict[str, object] = {
        "confirmation": "dpop",
        "attester": REGISTERED_KEYS.name,
        "grant": "client_credentials",
        "lifetime_s": rules.lifetime_s,
    }
    for audience in rules.audiences.values():
        if audience.kind == "api":
            entities = policies.prepare([operator.entity(), audience.entity()])
            return policies.decide(Request(operator.uid, "exchange", audience.uid, context), entities).permitted
    return False
