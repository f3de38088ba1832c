"""Manifests: declarative descriptions of what the broker shall know.

    attesters: {NAME: {kind: oidc, issuer: …, audience: …}}
    endpoints: {NAME: {base_url: …, secret: …, models: […]}}
    agents:    {ID:   {owner: …, purpose: …, ceiling: […], keys: […]}}
    operators: {NAME: {roles: [admin | auditor], new_link: true, key: THUMBPRINT}}
    policies:  {FILE.cedar: TEXT or null}       merged into the set in force; null removes a file
    cases:     {FILE.yaml: TEXT or null}
    policy_set: {files: {…}, cases: {…}}        in place of the two above: the whole set

`new_link` asks for another sign-in link; `key` is the thumbprint of the only key that may spend an operator's link, and
must be there once a second person may approve. Everything may carry `status`; an agent that is known may carry it
alone. Unknown keys are refused; what is not mentioned stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from broker.errors import Malformed, ManifestInvalid
from broker.formats.canonical_json import canonical
from broker.gateway import endpoints
from broker.gateway.endpoints import Endpoint
from broker.identity import agents, operators
from broker.identity.agents import Agent
from broker.identity.attesters import Attester
from broker.identity.attesters.attester import parse as parse_attester
from broker.identity.operators import Operator

ANY_KEY = "any key"
"""How a difference shows a link that names no key."""

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")
_SECTIONS = frozenset({"attesters", "endpoints", "agents", "operators", "policies", "cases", "policy_set"})
_MAX_ITEMS = 10_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest whose every value has been checked by itself.

    `policies` and `cases` map file names to texts or None; `whole_set` says that they replace the set in force.
    `statuses` are those of agents of which nothing else is said; `unstated` are the (section, name) of which everything
    but the status is said. `relinked` names the operators who get a new sign-in link; `link_keys` are the
    thumbprints of the keys that may spend links. `document` is the manifest as given.
    """

    document: Mapping[str, Any]
    attesters: Mapping[str, Attester] = field(default_factory=dict)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    agents: Mapping[str, Agent] = field(default_factory=dict)
    statuses: Mapping[str, str] = field(default_factory=dict)
    unstated: frozenset[tuple[str, str]] = frozenset()
    operators: Mapping[str, Operator] = field(default_factory=dict)
    policies: Mapping[str, str | None] = field(default_factory=dict)
    cases: Mapping[str, str | None] = field(default_factory=dict)
    schema: str | None = None
    whole_set: bool = False
    relinked: frozenset[str] = frozenset()
    link_keys: Mapping[str, str] = field(default_factory=dict)


def parse(document: object) -> Manifest:
    """Checks a manifest.

    Raises:
        ManifestInvalid: names the section, the item and the member, and what to write instead.
    """
    if not isinstance(document, Mapping) or not document:
        raise ManifestInvalid(f"A manifest is a mapping with some of {', '.join(sorted(_SECTIONS))}.")
    unknown = set(map(str, document)) - _SECTIONS
    if unknown:
        raise ManifestInvalid(f"Unknown section `{sorted(unknown)[0]}`; known are {', '.join(sorted(_SECTIONS))}.")
    if "policy_set" in document and ("policies" in document or "cases" in document):
        raise ManifestInvalid("Give `policy_set` (the whole set) or `policies` and `cases` (single files), not both.")
    whole = _section(document, "policy_set")
    if "policy_set" in document and (set(whole) - {"files", "cases", "schema"} or not whole.get("files")):
        raise ManifestInvalid("`policy_set` holds `files` (all of them), `cases` and perhaps `schema`.")
    schema = whole.get("schema")
    if schema is not None and not isinstance(schema, str):
        raise ManifestInvalid("`policy_set.schema` must be a text.")
    described_agents = _section(document, "agents")
    alone = {id for id, spec in described_agents.items() if set(spec) == {"status"}}
    described_operators = _section(document, "operators")
    try:
        canonical(document)
    except Malformed as error:
        raise ManifestInvalid(f"The manifest holds what no record of it could: {error.detail}") from error
    return Manifest(
        document,
        {n: _attester(n, s) for n, s in _section(document, "attesters").items()},
        {n: _endpoint(n, s) for n, s in _section(document, "endpoints").items()},
        {n: _agent(n, s) for n, s in described_agents.items() if n not in alone},
        {n: _status(f"agent {n}", described_agents[n], agents.STATUSES) for n in alone},
        frozenset(
            (section, n)
            for section in ("attesters", "endpoints", "agents", "operators")
            for n, spec in _section(document, section).items()
            if "status" not in spec
        ),
        {n: _operator(n, s) for n, s in described_operators.items()},
        _texts(whole, "files") if whole else _texts(document, "policies"),
        _texts(whole if whole else document, "cases"),
        schema,
        bool(whole),
        frozenset(n for n, spec in described_operators.items() if spec.get("new_link", False)),
        {n: spec["key"] for n, spec in described_operators.items() if "key" in spec},
    )


def describe_agent(agent: Agent) -> dict[str, object]:
    """An agent as a manifest describes it."""
    return {
        "owner": agent.owner,
        "purpose": agent.purpose,
        "kind": agent.kind,
        "status": agent.status,
        "ceiling": sorted(agent.ceiling),
        "enrolled_by": agent.enrolled_by,
        "keys": [key.thumbprint for key in agent.keys],
    }


def describe_operator(operator: Operator) -> dict[str, object]:
    """An operator as a manifest describes it, with the thumbprints of the keys."""
    return {
        "roles": sorted(operator.roles),
        "status": operator.status,
        "keys": [key.thumbprint for key in operator.keys],
    }


def describe_attester(attester: Attester) -> dict[str, object]:
    """An attester as a manifest describes it."""
    return {**attester.spec, "status": attester.status}


def describe_endpoint(endpoint: Endpoint) -> dict[str, object]:
    """An endpoint as a manifest describes it."""
    return {
        "wire": endpoint.wire,
        "base_url": endpoint.base_url,
        "secret": endpoint.secret,
        "models": list(endpoint.models),
        "status": endpoint.status,
    }


def _section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    items = document.get(name)
    if items is None:  # what YAML makes of a section with nothing under it
        return {}
    if not isinstance(items, Mapping) or len(items) > _MAX_ITEMS or not all(isinstance(key, str) for key in items):
        raise ManifestInvalid(f"`{name}` must map names to descriptions, at most {_MAX_ITEMS}.")
    for key, spec in items.items():
        if name in {"attesters", "endpoints", "agents", "operators"} and not isinstance(spec, Mapping):
            raise ManifestInvalid(f"{name}.{key}: must be a mapping.")
    return dict(items)


def _texts(document: Mapping[str, Any], name: str) -> dict[str, str | None]:
    items = _section(document, name)
    for key, text in items.items():
        if text is not None and not isinstance(text, str):
            raise ManifestInvalid(f"{name}.{key}: must be the file's text, or null to remove it.")
    return items


def _status(where: str, spec: Mapping[str, Any], allowed: tuple[str, ...]) -> str:
    status = spec.get("status", "active")
    if status not in allowed:
        raise ManifestInvalid(f"{where}: `status` must be one of {', '.join(allowed)}.")
    return str(status)


def _attester(name: str, spec: Mapping[str, Any]) -> Attester:
    if not endpoints.ENDPOINT_NAME.fullmatch(name):
        raise ManifestInvalid(f"attester {name}: names are small letters, digits and -, at most 63.")
    rest = {key: value for key, value in spec.items() if key != "status"}
    return parse_attester(name, rest, status=_status(f"attester {name}", spec, ("active", "disabled")))


def _endpoint(name: str, spec: Mapping[str, Any]) -> Endpoint:
    rest = {key: value for key, value in spec.items() if key != "status"}
    status = _status(f"endpoint {name}", spec, ("active", "disabled"))
    return replace(endpoints.parse(name, rest), status=status)


def _agent(id: str, spec: Mapping[str, Any]) -> Agent:
    where = f"agent {id}"
    if not agents.AGENT_ID.fullmatch(id) or id.startswith(operators.PREFIX) or id in agents.RESERVED:
        raise ManifestInvalid(f"{where}: this is no name for an agent; use letters, digits and . _ - / up to 200.")
    unknown = set(spec) - {"owner", "purpose", "ceiling", "keys", "kind", "status"}
    if unknown:
        raise ManifestInvalid(f"{where}: unknown member `{sorted(unknown)[0]}`.")
    for member in ("owner", "purpose"):
        if not isinstance(spec.get(member), str) or not 0 < len(spec[member]) <= 500:
            raise ManifestInvalid(f"{where}: `{member}` is required and must be a text.")
    kind = spec.get("kind", "agent")
    if kind not in ("agent", "client"):
        raise ManifestInvalid(f"{where}: `kind` must be agent or client.")
    ceiling = spec.get("ceiling", [])
    if not isinstance(ceiling, list) or not all(
        isinstance(entry, str) and agents.CEILING_ENTRY.fullmatch(entry) for entry in ceiling
    ):
        raise ManifestInvalid(f"{where}: `ceiling` must list entries endpoint/model or endpoint/*.")
    keys = agents.parse_keys(spec.get("keys", []), f"{where}: `keys`")
    status = _status(where, spec, agents.STATUSES)
    return Agent(id, kind, spec["owner"], spec["purpose"], frozenset(ceiling), status, "", keys)


def _operator(name: str, spec: Mapping[str, Any]) -> Operator:
    where = f"operator {name}"
    if not operators.OPERATOR_NAME.fullmatch(name):
        raise ManifestInvalid(f"{where}: names are small letters, digits and . _ - up to 63.")
    unknown = set(spec) - {"roles", "status", "new_link", "key"}
    if unknown:
        raise ManifestInvalid(f"{where}: unknown member `{sorted(unknown)[0]}`.")
    if not isinstance(spec.get("new_link", False), bool):
        raise ManifestInvalid(f"{where}: `new_link` must be true or false.")
    if "key" in spec and not (isinstance(spec["key"], str) and _THUMBPRINT.fullmatch(spec["key"])):
        raise ManifestInvalid(f"{where}: `key` must be the thumbprint that `broker login --new-key` prints.")
    roles = spec.get("roles")
    if not isinstance(roles, list) or not roles or not set(map(str, roles)) <= set(operators.ROLES):
        raise ManifestInvalid(f"{where}: `roles` must list some of {', '.join(operators.ROLES)}.")
    return Operator(name, tuple(sorted(set(map(str, roles)))), _status(where, spec, ("active", "suspended")))
