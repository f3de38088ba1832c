"""What a manifest would change: checked whole, and shown as differences before anything happens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from broker.changes import manifest as manifests
from broker.changes.manifest import Manifest
from broker.errors import Malformed, ManifestInvalid, OutboundRefused
from broker.formats.canonical_json import canonical
from broker.gateway.endpoints import Catalogue, Endpoint
from broker.gateway.upstream import ProviderKeys
from broker.identity.agents import Agent
from broker.identity.attesters import Attester
from broker.identity.directory import Directory
from broker.identity.operators import Operator
from broker.policy import active
from broker.policy.active import ActivePolicies, Checked
from broker.policy.annotations import EnrolmentRule, enrolment_rule
from broker.policy.engine import PolicySet
from broker.policy.shipped import PolicyFiles


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that would change. `before` or `after` is None where it does not exist."""

    section: str
    name: str
    before: object
    after: object

    @property
    def narrows(self) -> bool:
        """True if it can only take rights away: something that was in force stops being active, and nothing else."""
        if not isinstance(self.before, Mapping) or not isinstance(self.after, Mapping):
            return False
        changed = {key for key in {*self.before, *self.after} if self.before.get(key) != self.after.get(key)}
        return changed == {"status"} and self.after["status"] != "active" and self.before["status"] == "active"


@dataclass(frozen=True, slots=True)
class Known:
    """What is in force: what a plan is made against. Taken on the loop, so that all of it is of one moment."""

    attesters: Mapping[str, Attester]
    endpoints: Mapping[str, Endpoint]
    agents: Mapping[str, Agent]
    operators: Mapping[str, Operator]
    policies: PolicySet
    source: PolicyFiles
    revision: int

    @classmethod
    def now(cls, directory: Directory, catalogue: Catalogue, policies: ActivePolicies) -> Known:
        """The state at this moment. Agents are too many to copy: a plan looks at few, and `effects.apply` again."""
        return cls(
            dict(directory.attesters),
            catalogue.endpoints,
            directory.agents,
            dict(directory.operators),
            policies.current,
            policies.source,
            policies.revision,
        )


ThingT = TypeVar("ThingT", Attester, Endpoint, Agent, Operator)


@dataclass(frozen=True, slots=True)
class Values:
    """The new values of what changes."""

    attesters: tuple[Attester, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    agents: tuple[Agent, ...] = ()
    operators: tuple[Operator, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked change. Only `make` builds one.

    Args:
        id: SHA-256 of the manifest and of what it would change, both ways: the change's identity. When anything it
            touches has changed, the same manifest is another change.
        base: hash of the policy set that it was made against.
        revision: how many sets had been activated then; it tells apart sets that differ in their cases alone.
        checked: the new policy set, with every case passed; None if policies stay.
        rules: enrolment rules that fix something else from now on, by `@id`; None for one that is gone.
        links: who gets a sign-in link, and the thumbprint of the only key that may spend it ("" for any).
    """

    id: str
    manifest: Manifest
    differences: tuple[Difference, ...]
    values: Values
    checked: Checked | None
    base: str
    revision: int
    rules: Mapping[str, EnrolmentRule | None]
    links: Mapping[str, str]

    @property
    def widens(self) -> bool:
        """True unless every difference narrows."""
        return not all(difference.narrows for difference in self.differences)


def make(document: object, known: Known, provider_keys: ProviderKeys) -> Plan:
    """Checks a manifest against what is known now.

    Takes as long as the policy set's cases; call it off the loop.

    Args:
        document: the manifest as it came.
        known: what is in force.
        provider_keys: which endpoints may have which key.

    Raises:
        ManifestInvalid, PolicyInvalid, CasesFailed: the text says what to mend. Nothing was changed.
    """
    manifest = manifests.parse(document)
    differences: list[Difference] = []
    attesters: list[Attester] = []
    for name, attester in manifest.attesters.items():
        known_attester = known.attesters.get(name)
        attester = _as_it_was(attester, known_attester, ("attesters", name) in manifest.unstated)
        before = manifests.describe_attester(known_attester) if known_attester is not None else None
        if _differs(differences, "attesters", name, before, manifests.describe_attester(attester)):
            attesters.append(attester)
    one_attester_an_issuer({**known.attesters, **{attester.name: attester for attester in attesters}})
    endpoints: list[Endpoint] = []
    for name, endpoint in manifest.endpoints.items():
        known_endpoint = known.endpoints.get(name)
        endpoint = _as_it_was(endpoint, known_endpoint, ("endpoints", name) in manifest.unstated)
        before = manifests.describe_endpoint(known_endpoint) if known_endpoint is not None else None
        if _differs(differences, "endpoints", name, before, manifests.describe_endpoint(endpoint)):
            endpoints.append(endpoint)
            try:
                provider_keys.check(endpoint)
            except OutboundRefused as error:
                raise ManifestInvalid(f"endpoint {name}: {error.detail}") from error
    one_endpoint_a_model({**known.endpoints, **{endpoint.name: endpoint for endpoint in endpoints}})
    agents: list[Agent] = []
    for id, agent in {**manifest.agents, **_restated(manifest.statuses, known.agents)}.items():
        known_agent = known.agents.get(id)
        agent = _as_it_was(agent, known_agent, ("agents", id) in manifest.unstated)
        if known_agent is not None and known_agent.enrolled_by:
            agent = _ruled(agent, known_agent)
        before = manifests.describe_agent(known_agent) if known_agent is not None else None
        if _differs(differences, "agents", id, before, manifests.describe_agent(agent)):
            agents.append(agent)
    operators: list[Operator] = []
    links: dict[str, str] = {}
    for name, operator in manifest.operators.items():
        known_operator = known.operators.get(name)
        operator = _as_it_was(operator, known_operator, ("operators", name) in manifest.unstated)
        if known_operator is not None:
            operator = replace(operator, keys=known_operator.keys)
        before = manifests.describe_operator(known_operator) if known_operator is not None else None
        after = manifests.describe_operator(operator)
        if before != after:
            operators.append(operator)
        if name in manifest.relinked or (before != after and not operator.keys and operator.status == "active"):
            links[name] = _link_key(name, manifest, known)
            after["new_link"] = links[name] or manifests.ANY_KEY
        _differs(differences, "operators", name, before, after)
    checked = _policies(manifest, known.source, differences)
    return Plan(
        _identity(known.policies.hash, manifest, differences),
        manifest,
        tuple(differences),
        Values(tuple(attesters), tuple(endpoints), tuple(agents), tuple(operators)),
        checked,
        known.policies.hash,
        known.revision,
        changed_rules(known.policies, checked.policies) if checked is not None else {},
        links,
    )


def changed_rules(old: PolicySet, new: PolicySet) -> dict[str, EnrolmentRule | None]:
    """The enrolment rules that fix something else in the new set, or (None) are gone from it."""
    before, after = _rules(old), _rules(new)
    return {id: after.get(id) for id in before if before[id] != after.get(id)}


def _rules(policies: PolicySet) -> dict[str, EnrolmentRule]:
    rules = (enrolment_rule(p) for p in policies.policies if p.effect == "permit" and p.action == ("enrol",))
    return {rule.policy: rule for rule in rules if rule.ceiling is not None}


def _link_key(name: str, manifest: Manifest, known: Known) -> str:
    """The key that may spend an operator's link; it is nobody else's."""
    thumbprint = manifest.link_keys.get(name, "")
    for other in known.operators.values():
        if other.name != name and any(key.thumbprint == thumbprint for key in other.keys):
            raise ManifestInvalid(f"operator {name}: `key` is a key of the operator {other.name}.")
    return thumbprint


def _as_it_was(new: ThingT, known: ThingT | None, unstated: bool) -> ThingT:
    """What is described anew without a status keeps the one it has: to describe is not to give rights back."""
    return replace(new, status=known.status) if known is not None and unstated else new


def _differs(found: list[Difference], section: str, name: str, before: object, after: object) -> bool:
    if before == after:
        return False
    found.append(Difference(section, name, before, after))
    return True


def _policies(manifest: Manifest, old: PolicyFiles, differences: list[Difference]) -> Checked | None:
    if manifest.whole_set:
        files = {name: text for name, text in manifest.policies.items() if text is not None}
        cases = {name: text for name, text in manifest.cases.items() if text is not None}
    else:
        files = _merged(old.files, manifest.policies)
        cases = _merged(old.cases, manifest.cases)
    new = PolicyFiles(manifest.schema if manifest.schema is not None else old.schema, files, cases)
    changed = False
    for section, before, after in (("policies", old.files, files), ("cases", old.cases, cases)):
        for name in sorted({*before, *after}):
            changed |= _differs(differences, section, name, before.get(name), after.get(name))
    changed |= _differs(differences, "policies", "schema.cedarschema", old.schema, new.schema)
    return active.check(new) if changed else None


def _merged(old: Mapping[str, str], patch: Mapping[str, str | None]) -> dict[str, str]:
    merged: dict[str, str | None] = {**old, **patch}
    return {name: text for name, text in merged.items() if text is not None}


def _restated(statuses: Mapping[str, str], known: Mapping[str, Agent]) -> dict[str, Agent]:
    """Known agents with another status."""
    for id in statuses:
        if id not in known:
            raise ManifestInvalid(
                f"agent {id}: it is not known yet; describe it with `owner`, `purpose` and `ceiling`."
            )
    return {id: replace(known[id], status=status) for id, status in statuses.items()}


def _ruled(wanted: Agent, known: Agent) -> Agent:
    """An agent of a rule: a manifest may set its status; owner, purpose and ceiling are the rule's to say."""
    if (wanted.owner, wanted.purpose, wanted.ceiling) != (known.owner, known.purpose, known.ceiling) or wanted.keys:
        raise ManifestInvalid(
            f"agent {known.id}: the enrolment rule {known.enrolled_by} fixes its owner, purpose and ceiling; "
            "change the rule, or set only the status."
        )
    return replace(known, status=wanted.status)


def _identity(base: str, manifest: Manifest, differences: list[Difference]) -> str:
    changed = [[d.section, d.name, d.before, d.after] for d in differences]
    try:
        text = canonical({"base": base, "manifest": jsonable(manifest.document), "differences": jsonable(changed)})
    except Malformed as error:
        raise ManifestInvalid(f"The manifest holds what JSON cannot say exactly: {error.detail}") from error
    return hashlib.sha256(text).hexdigest()


def one_attester_an_issuer(attesters: Mapping[str, Attester]) -> None:
    """Refuses two attesters of one issuer: evidence must have one reading.

    Raises:
        ManifestInvalid: names both.
    """
    seen: dict[str, str] = {}
    for name, attester in attesters.items():
        identity = attester.issuer if attester.kind == "oidc" else "registered keys"
        other = seen.setdefault(identity, name)
        if other != name:
            raise ManifestInvalid(f"attester {name}: {identity} is the attester {other} already.")


def one_endpoint_a_model(endpoints: Mapping[str, Endpoint]) -> None:
    """Refuses a model that two active endpoints of one wire format offer.

    Raises:
        ManifestInvalid: names both.
    """
    seen: dict[tuple[str, str], str] = {}
    for name, endpoint in endpoints.items():
        for model in endpoint.models if endpoint.status == "active" else ():
            other = seen.setdefault((endpoint.wire, model), name)
            if other != name:
                raise ManifestInvalid(
                    f"endpoint {name}: the model {model} is offered by {other} already; a caller names a model alone."
                )


def jsonable(value: object) -> object:
    """A value with plain dicts and lists all the way down, as canonical JSON takes them."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(member) for member in value]
    return value
