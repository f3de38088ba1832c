"""What a manifest would change: checked whole, and shown as differences before anything happens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from broker.changes import manifest as manifests
from broker.changes.manifest import Manifest
from broker.errors import ManifestInvalid, OutboundRefused
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
        id: SHA-256 of the manifest's canonical form and of what it starts from: the change's identity.
        base: hash of the policy set that it was made against.
        checked: the new policy set, with every case passed; None if policies stay.
        rules: enrolment rules that fix something else from now on, by `@id`; None for one that is gone.
    """

    id: str
    manifest: Manifest
    differences: tuple[Difference, ...]
    values: Values
    checked: Checked | None
    base: str
    rules: Mapping[str, EnrolmentRule | None]

    @property
    def widens(self) -> bool:
        """True unless every difference narrows."""
        return bool(self.manifest.relinked) or not all(difference.narrows for difference in self.differences)


def make(
    document: object, directory: Directory, catalogue: Catalogue, policies: ActivePolicies, provider_keys: ProviderKeys
) -> Plan:
    """Checks a manifest against what is known now.

    Takes as long as the policy set's cases; call it off the loop.

    Raises:
        ManifestInvalid, PolicyInvalid, CasesFailed: the text says what to mend. Nothing was changed.
    """
    manifest = manifests.parse(document)
    differences: list[Difference] = []
    attesters: list[Attester] = []
    for name, attester in manifest.attesters.items():
        known = directory.attesters.get(name)
        before = manifests.describe_attester(known) if known is not None else None
        if _differs(differences, "attesters", name, before, manifests.describe_attester(attester)):
            attesters.append(attester)
    _one_attester_an_issuer({**directory.attesters, **manifest.attesters})
    endpoints: list[Endpoint] = []
    for name, endpoint in manifest.endpoints.items():
        known_endpoint = catalogue.endpoints.get(name)
        before = manifests.describe_endpoint(known_endpoint) if known_endpoint is not None else None
        if _differs(differences, "endpoints", name, before, manifests.describe_endpoint(endpoint)):
            endpoints.append(endpoint)
            try:
                provider_keys.check(endpoint)
            except OutboundRefused as error:
                raise ManifestInvalid(f"endpoint {name}: {error.detail}") from error
    _one_endpoint_a_model({**catalogue.endpoints, **manifest.endpoints})
    agents: list[Agent] = []
    for id, agent in manifest.agents.items():
        known_agent = directory.agents.get(id)
        if known_agent is not None and known_agent.enrolled_by:
            agent = _ruled(agent, known_agent)
        before = manifests.describe_agent(known_agent) if known_agent is not None else None
        if _differs(differences, "agents", id, before, manifests.describe_agent(agent)):
            agents.append(agent)
    operators: list[Operator] = []
    for name, operator in manifest.operators.items():
        known_operator = directory.operators.get(name)
        if known_operator is not None:
            operator = replace(operator, keys=known_operator.keys)
        before = manifests.describe_operator(known_operator) if known_operator is not None else None
        if _differs(differences, "operators", name, before, manifests.describe_operator(operator)):
            operators.append(operator)
    checked = _policies(manifest, policies, differences)
    base = policies.current.hash
    return Plan(
        hashlib.sha256(canonical({"base": base, "manifest": _jsonable(manifest.document)})).hexdigest(),
        manifest,
        tuple(differences),
        Values(tuple(attesters), tuple(endpoints), tuple(agents), tuple(operators)),
        checked,
        base,
        changed_rules(policies.current, checked.policies) if checked is not None else {},
    )


def changed_rules(old: PolicySet, new: PolicySet) -> dict[str, EnrolmentRule | None]:
    """The enrolment rules that fix something else in the new set, or (None) are gone from it."""
    before, after = _rules(old), _rules(new)
    return {id: after.get(id) for id in before if before[id] != after.get(id)}


def _rules(policies: PolicySet) -> dict[str, EnrolmentRule]:
    rules = (enrolment_rule(p) for p in policies.policies if p.effect == "permit" and p.action == ("enrol",))
    return {rule.policy: rule for rule in rules if rule.ceiling is not None}


def _differs(found: list[Difference], section: str, name: str, before: object, after: object) -> bool:
    if before == after:
        return False
    found.append(Difference(section, name, before, after))
    return True


def _policies(manifest: Manifest, policies: ActivePolicies, differences: list[Difference]) -> Checked | None:
    old = policies.source
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


def _ruled(wanted: Agent, known: Agent) -> Agent:
    """An agent of a rule: a manifest may set its status; owner, purpose and ceiling are the rule's to say."""
    if (wanted.owner, wanted.purpose, wanted.ceiling) != (known.owner, known.purpose, known.ceiling) or wanted.keys:
        raise ManifestInvalid(
            f"agent {known.id}: the enrolment rule {known.enrolled_by} fixes its owner, purpose and ceiling; "
            "change the rule, or set only the status."
        )
    return replace(known, status=wanted.status)


def _one_attester_an_issuer(attesters: Mapping[str, Attester]) -> None:
    seen: dict[str, str] = {}
    for name, attester in attesters.items():
        identity = attester.issuer if attester.kind == "oidc" else "registered keys"
        other = seen.setdefault(identity, name)
        if other != name:
            raise ManifestInvalid(f"attester {name}: {identity} is the attester {other} already.")


def _one_endpoint_a_model(endpoints: Mapping[str, Endpoint]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, endpoint in endpoints.items():
        for model in endpoint.models if endpoint.status == "active" else ():
            other = seen.setdefault((endpoint.wire, model), name)
            if other != name:
                raise ManifestInvalid(
                    f"endpoint {name}: the model {model} is offered by {other} already; a caller names a model alone."
                )


def _jsonable(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _jsonable(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(member) for member in value]
    return value
