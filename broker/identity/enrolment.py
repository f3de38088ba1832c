"""Enrolment: which agent this evidence is. A rule is a Cedar permit whose annotations hold the name.

Every permit that applied is reported by one evaluation; two that name different agents are a refusal, because then the
rules themselves do not know. Fails closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from broker.errors import AccessDenied, InvalidRequest
from broker.identity.agents import AGENT_ID, RESERVED
from broker.identity.attesters import Attested, Attester
from broker.identity.operators import PREFIX
from broker.policy.annotations import ENROL, EnrolmentRule, enrolment_rule
from broker.policy.decided import Decided, cut, told
from broker.policy.engine import PolicySet
from broker.policy.reads import Reads
from broker.policy.request import Entity, EntityRef, Request


class NotEnrolled(InvalidRequest):
    """Good evidence that no enrolment rule, or more than one agent, answers to."""

    reason = "not_enrolled"


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the rules make of evidence.

    Args:
        agent: the agent's id.
        rules: the `@id`s of the rules that applied.
        fixed_by: the rule that fixes owner, purpose and ceiling; empty when the agent's registration does.
        owner, purpose, ceiling: what that rule fixes.
    """

    agent: str
    rules: tuple[str, ...]
    fixed_by: str = ""
    owner: str = ""
    purpose: str = ""
    ceiling: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the rules say of evidence that is alike, before the evidence's own claims make a name of it.

    Args:
        decided: the decision, with what it was made from: of the claims those alone that the rules read. Where their
            text does not tell which those are, the evidence is not told, for all of it would have to be.
        brief: the same as the record of an exchange tells it; not to be changed.
        rules: those that applied.
    """

    decided: Decided
    brief: Mapping[str, object]
    rules: tuple[EnrolmentRule, ...]

    def enrolled(self, attested: Attested, attester: Attester) -> Enrolled:
        """Names the agent that verified evidence is.

        Raises:
            NotEnrolled: no rule applies, the rules name several agents, or a claim that makes the name is missing.
            AccessDenied: with reason "policy_error", if something could not be evaluated. Fails closed.
        """
        if self.decided.decision.limited_by == "error":
            raise AccessDenied("The policies could not be evaluated; see the record.", reason="policy_error")
        return _enrolled(attested, attester, self.rules)


class Enrolment:
    """Asks the rules in force, and keeps what they said of like evidence.

    Evidence is alike when it agrees in all that the rules in force read (`broker.policy.reads`); what is kept goes with
    the set that said it.

    Args:
        capacity: answers kept; the least recently used goes first.
    """

    def __init__(self, capacity: int = 20_000) -> None:
        self._capacity = capacity
        self._policies: PolicySet | None = None
        self._reads: Reads | None = None
        self._kept: OrderedDict[object, Ruling] = OrderedDict()

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._kept)

    def ruling(self, attested: Attested, attester: Attester, policies: PolicySet) -> Ruling:
        """What the rules say of verified evidence."""
        if policies is not self._policies:
            self._policies, self._reads = policies, policies.reads(ENROL)
            self._kept.clear()
        if self._reads is None:
            return _ruling(attested.principal, attested.lists, attester, policies, tell=False)
        principal, lists = self._reads.narrowed(attested.principal, attested.lists)
        key = (
            attester.name,
            attester.kind,
            principal.uid[0],
            *map(_frozen, (principal.attrs, principal.tags, lists.tags)),
        )
        ruling = self._kept.get(key)
        if ruling is None:
            ruling = self._kept[key] = _ruling(principal, lists, attester, policies, tell=True)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return ruling


def _frozen(values: Mapping[str, object] | None) -> frozenset[tuple[str, object]]:
    return frozenset((name, tuple(v) if isinstance(v, list) else v) for name, v in (values or {}).items())


def _ruling(principal: Entity, lists: Entity, attester: Attester, policies: PolicySet, *, tell: bool) -> Ruling:
    context = {"lists": EntityRef(lists.uid)}
    request = Request(principal.uid, ENROL, attester.uid, context)
    entities = [principal, lists, attester.entity()]
    decision = policies.decide(request, policies.prepare(entities))
    applied = set(decision.policies) if decision.permitted else frozenset()
    rules = tuple(enrolment_rule(policy) for policy in policies.deciding(ENROL) if policy.id in applied)
    slice = cut(principal.uid, attester.uid, entities, context) if tell else None
    decided = told(request, decision, slice)
    return Ruling(decided, decided.brief, rules)


def _enrolled(attested: Attested, attester: Attester, rules: tuple[EnrolmentRule, ...]) -> Enrolled:
    if not rules:
        raise NotEnrolled(
            f"No enrolment rule names an agent for this evidence of {attester.name} (subject {attested.subject!r}). "
            "An admin adds a rule for it."
        )
    names = {_name(rule, attested) for rule in rules}
    ids = tuple(sorted(rule.policy for rule in rules))
    if len(names) > 1:
        raise NotEnrolled(
            f"The enrolment rules {', '.join(ids)} name different agents for this evidence. An admin narrows one."
        )
    fixing = sorted((rule for rule in rules if rule.ceiling is not None), key=lambda rule: rule.policy)
    agent = names.pop()
    if not fixing:
        return Enrolled(agent, ids)
    if len({(rule.owner, rule.purpose, frozenset(rule.ceiling or ())) for rule in fixing}) > 1:
        raise NotEnrolled(
            f"The enrolment rules {', '.join(ids)} fix different owners or ceilings for {agent}. An admin mends one."
        )
    rule = fixing[0]
    return Enrolled(agent, ids, rule.policy, rule.owner or "", rule.purpose or "", frozenset(rule.ceiling or ()))


def _name(rule: EnrolmentRule, attested: Attested) -> str:
    """The agent that a rule names; claim values are escaped so that none can pose as two parts."""
    name = rule.agent if rule.agent is not None else _made_name(rule, attested)
    if name in RESERVED:
        raise NotEnrolled(f"The rule {rule.policy} makes the name {name!r}, under which records of others stand.")
    if name.startswith(PREFIX):
        raise NotEnrolled(f"The rule {rule.policy} makes a name that begins with {PREFIX!r}, which operators have.")
    return name


def _made_name(rule: EnrolmentRule, attested: Attested) -> str:
    parts = []
    for claim in rule.claims:
        value = attested.principal.attrs.get(claim) or (attested.principal.tags or {}).get(claim)
        if not isinstance(value, str) or not value:
            raise NotEnrolled(
                f"The rule {rule.policy} makes the agent's name from the claim {claim!r}, which is missing."
            )
        # A registered key's own principal is taken as it stands; everything else is escaped.
        parts.append(value if attested.kind == "key" else quote(value, safe=""))
    name = rule.prefix + "/".join(parts)
    if not AGENT_ID.fullmatch(name):
        raise NotEnrolled(
            f"The rule {rule.policy} makes a name that no agent can have: longer than 200 characters, or not beginning "
            "with a letter or digit. An admin gives it a prefix, or other claims."
        )
    return name
