"""Manifests: each bad member is refused by the name of its section, item and member; nothing is guessed."""

from __future__ import annotations

from typing import Any

import pytest

from broker.changes.manifest import parse
from broker.errors import ManifestInvalid
from broker.formats import base64url, jwk
from tests.build import es256

AGENT = {"owner": "team", "purpose": "tests", "ceiling": ["openai/gpt-4o"]}
ENDPOINT = {"base_url": "https://api.example/v1", "models": ["m"]}
OIDC = {"kind": "oidc", "issuer": "https://issuer.example", "audience": "https://broker.example"}


def test_what_no_record_can_hold_is_refused() -> None:
    """A manifest is recorded: a number that canonical JSON cannot say stops it before anything is stored."""
    members = {**jwk.to_members(es256().public_key()), "more": 2**64}
    with pytest.raises(ManifestInvalid, match="no record of it"):
        parse({"attesters": {"a": {**OIDC, "jwks": {"keys": [members]}}}})


def _private() -> dict[str, Any]:
    key = es256()
    number = key.private_numbers().private_value.to_bytes(32, "big")
    return {**jwk.to_members(key.public_key()), "d": base64url.encode(number)}


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (None, "A manifest is a mapping"),
        ([], "A manifest is a mapping"),
        ({}, "A manifest is a mapping"),
        ({"agent": {}}, "Unknown section `agent`"),
        ({"agents": []}, "`agents` must map names"),
        ({"agents": False}, "`agents` must map names"),
        ({"agents": ""}, "`agents` must map names"),
        ({"agents": {7: {}}}, "`agents` must map names"),
        ({"agents": {f"a{n}": {} for n in range(10_001)}}, "`agents` must map names to descriptions, at most 10000"),
        ({"agents": {"a": None}}, "agents.a: must be a mapping"),
        ({"agents": {"a": {}}}, "agent a: `owner`"),
        ({"agents": {"a b": AGENT}}, "agent a b: this is no name"),
        ({"agents": {"operator:eve": AGENT}}, "agent operator:eve: this is no name"),
        ({"agents": {"broker": AGENT}}, "agent broker: this is no name"),
        ({"agents": {"unknown": AGENT}}, "agent unknown: this is no name"),
        ({"agents": {"a": {**AGENT, "owner": ""}}}, "agent a: `owner`"),
        ({"agents": {"a": {**AGENT, "owner": "x" * 501}}}, "agent a: `owner`"),
        ({"agents": {"a": {**AGENT, "purpose": 7}}}, "agent a: `purpose`"),
        ({"agents": {"a": {**AGENT, "kind": "robot"}}}, "agent a: `kind`"),
        ({"agents": {"a": {**AGENT, "status": "paused"}}}, "agent a: `status`"),
        ({"agents": {"a": {"status": "paused"}}}, "agent a: `status`"),
        ({"agents": {"a": {**AGENT, "ceiling": "openai/*"}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "ceiling": ["*"]}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "ceiling": ["*/*"]}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "ceiling": ["openai/gpt-*"]}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "ceiling": ["openai/m\n"]}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "ceiling": [None]}}}, "agent a: `ceiling`"),
        ({"agents": {"a": {**AGENT, "keys": {}}}}, "agent a: `keys`"),
        ({"agents": {"a": {**AGENT, "keys": [{"kty": "oct", "k": "AA"}]}}}, "agent a: `keys`"),
        ({"agents": {"a": {**AGENT, "keys": [_private()]}}}, "agent a: `keys`"),
        ({"agents": {"a": {**AGENT, "enrolled_by": "rule"}}}, "agent a: unknown member `enrolled_by`"),
        ({"agents": {"a": {**AGENT, "cieling": []}}}, "agent a: unknown member `cieling`"),
        ({"attesters": {"a": 7}}, "attesters.a: must be a mapping"),
        ({"attesters": {"A": OIDC}}, "attester A: names"),
        ({"attesters": {"a": {**OIDC, "kind": "saml"}}}, "attester a: `kind`"),
        ({"attesters": {"a": {"kind": "oidc"}}}, "attester a: `issuer`"),
        ({"attesters": {"a": {**OIDC, "audience": ""}}}, "attester a: `audience`"),
        ({"attesters": {"a": {**OIDC, "algorithms": ["HS256"]}}}, "attester a: `algorithms`"),
        ({"attesters": {"a": {**OIDC, "algorithms": ["none"]}}}, "attester a: `algorithms`"),
        ({"attesters": {"a": {**OIDC, "status": "suspended"}}}, "attester a: `status`"),
        ({"attesters": {"a": {**OIDC, "max_lifetime_s": True}}}, "attester a: `max_lifetime_s`"),
        ({"attesters": {"a": {**OIDC, "jwks": {"keys": []}}}}, "attester a: `jwks`"),
        ({"attesters": {"a": {**OIDC, "secret": "x"}}}, "attester a: unknown member `secret`"),
        ({"attesters": {"a": {"kind": "key", "issuer": "x"}}}, "attester a: unknown member `issuer`"),
        ({"endpoints": {"a": {**ENDPOINT, "status": "suspended"}}}, "endpoint a: `status`"),
        ({"endpoints": {"a": {**ENDPOINT, "models": []}}}, "endpoint a: `models`"),
        ({"operators": {"Eve": {"roles": ["admin"]}}}, "operator Eve: names"),
        ({"operators": {"eve": {}}}, "operator eve: `roles`"),
        ({"operators": {"eve": {"roles": []}}}, "operator eve: `roles`"),
        ({"operators": {"eve": {"roles": "admin"}}}, "operator eve: `roles`"),
        ({"operators": {"eve": {"roles": ["root"]}}}, "operator eve: `roles`"),
        ({"operators": {"eve": {"roles": ["admin"], "status": "revoked"}}}, "operator eve: `status`"),
        ({"operators": {"eve": {"roles": ["admin"], "new_link": "no"}}}, "operator eve: `new_link`"),
        ({"operators": {"eve": {"roles": ["admin"], "key": "short"}}}, "operator eve: `key`"),
        ({"operators": {"eve": {"roles": ["admin"], "keys": []}}}, "operator eve: unknown member `keys`"),
        ({"policies": []}, "`policies` must map names"),
        ({"policies": {"a.cedar": 7}}, "policies.a.cedar: must be the file's text"),
        ({"cases": {"a.yaml": {}}}, "cases.a.yaml: must be the file's text"),
        ({"policy_set": {}}, "`policy_set` holds `files`"),
        ({"policy_set": None}, "`policy_set` holds `files`"),
        ({"policy_set": {"files": {}}}, "`policy_set` holds `files`"),
        ({"policy_set": {"files": {"a": ""}, "hash": "x"}}, "`policy_set` holds `files`"),
        ({"policy_set": {"files": {"a": ""}, "schema": 7}}, "`policy_set.schema` must be a text"),
        ({"policy_set": {"files": {"a": ""}}, "policies": {}}, "Give `policy_set`"),
    ],
)
def test_a_bad_member_is_named(document: object, told: str) -> None:
    """The text of a refusal leads to the place to mend."""
    with pytest.raises(ManifestInvalid) as refused:
        parse(document)
    assert told in refused.value.detail


def test_an_empty_section_changes_nothing() -> None:
    """YAML makes nothing of a section without items, and so do we."""
    manifest = parse({"agents": None, "policies": None})
    assert (manifest.agents, manifest.policies, manifest.whole_set) == ({}, {}, False)


def test_a_manifest_says_what_it_says() -> None:
    """Good items become values with their defaults, and a status alone is kept apart."""
    manifest = parse(
        {
            "agents": {"a": AGENT, "b": {"status": "revoked"}},
            "attesters": {"p": {**OIDC, "status": "disabled"}},
            "endpoints": {"e": ENDPOINT},
            "operators": {"o": {"roles": ["auditor", "admin", "admin"], "new_link": True}},
        }
    )
    assert (manifest.agents["a"].kind, manifest.agents["a"].status) == ("agent", "active")
    assert manifest.statuses == {"b": "revoked"}
    assert manifest.attesters["p"].status == "disabled"
    assert (manifest.endpoints["e"].wire, manifest.endpoints["e"].secret) == ("openai", "")
    assert manifest.operators["o"].roles == ("admin", "auditor")
    assert manifest.relinked == {"o"}
