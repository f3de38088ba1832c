"""Manifests, as documents and as files: each is taken whole, or refused with its place."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from broker.changes import manifest
from broker.changes.manifest import Manifest
from broker.cli import manifest_files
from broker.errors import ManifestInvalid
from broker.formats import jwk
from broker.formats.canonical_json import canonical
from broker.identity.agents import stored_keys
from broker.identity.attesters import attester
from tests.formats.forge import ed25519, p256
from tests.fuzz.mutations import ODD, altered, damaged_text
from tests.fuzz.outcome import effort, taken

KEY = {**jwk.to_members(p256().public_key()), "kid": "k", "alg": "ES256"}
WORLD: dict[str, Any] = {
    "attesters": {
        "platform": {
            "kind": "oidc", "issuer": "https://issuer.example", "audience": "https://b.example",
            "algorithms": ["ES256"], "jwks": {"keys": [KEY]}, "one_use": True, "max_lifetime_s": 3600,
            "status": "active",
        },
        "keys": {"kind": "key"},
    },
    "endpoints": {"openai": {"base_url": "https://api.example/v1", "secret": "provider-key", "models": ["m", "n"]}},
    "agents": {
        "nightly": {
            "owner": "team", "purpose": "tests", "kind": "agent", "keys": [KEY],
            "ceiling": ["openai/m", "openai/*"],
        },
        "weekly": {"status": "suspended"},
    },
    "operators": {"alice": {"roles": ["admin", "auditor"], "new_link": True, "key": "A" * 43}},
    "policies": {"nightly.cedar": "permit (principal, action, resource);", "old.cedar": None},
    "cases": {"nightly.yaml": "[]"},
}  # fmt: skip
WHOLE: dict[str, Any] = {"policy_set": {"files": {"a.cedar": ""}, "cases": {}, "schema": "entity A;"}}
ADDRESSES = ["https://u:p@h/", "http://h:x", "https://[", "https://h/?q", "HTTPS://h", "https://h:0/", "//h"]
TERMS = ["active", "disabled", "suspended", "revoked", "anthropic", "RS256", "none", "client", "*/*", "jwks_uri"]
WORDS = st.sampled_from([*WORLD, "policy_set", *TERMS, *ADDRESSES, KEY, jwk.to_members(ed25519().public_key())])
DOCUMENTS = st.sampled_from([WORLD, WORLD, WHOLE]).flatmap(lambda world: altered(world, odd=WORDS))


@effort(300)
@given(DOCUMENTS)
def test_a_manifest_is_taken_whole_or_refused(document: object) -> None:
    """What is taken can be stored, recorded and described, and means the same when it is read again."""
    found = taken(lambda: manifest.parse(document), quotes=True)
    if found is None:
        return
    assert isinstance(found, Manifest)
    canonical(found.document)
    assert manifest.parse(orjson.loads(orjson.dumps(found.document))) == found
    for name, each in found.attesters.items():
        described = manifest.describe_attester(each)
        canonical(described)
        assert attester.parse(name, orjson.loads(orjson.dumps(each.spec)), status=each.status) == each
    for agent in found.agents.values():
        canonical(manifest.describe_agent(agent))
        assert tuple(map(jwk.parse_public, orjson.loads(stored_keys(agent.keys)))) == agent.keys
    for operator in found.operators.values():
        canonical(manifest.describe_operator(operator))
    for endpoint in found.endpoints.values():
        canonical(manifest.describe_endpoint(endpoint))
        assert endpoint.origin.startswith(("https://", "http://"))
    assert set(found.agents).isdisjoint(found.statuses)


@effort(100)
@given(
    st.sampled_from(
        [*ODD, {1: 2}, {None: {}}, {"agents": {"a": {1: 2, "x": 3}}}, {"agents": {"a": {1}}}, b"x", {"agents"}]
    )
)
def test_what_json_cannot_say_is_refused_too(document: object) -> None:
    """Names that are no text and values of other types never get further."""
    assert taken(lambda: manifest.parse(document), quotes=True) is None


SCRAPS = st.sampled_from(
    ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!set {a}", "!x y", "&a [*a]", "*a", "<<: {a: 1}", "@",
     "2026-01-01", "2026-99-99", "? [a]\n: b", "? {a: 1}\n: b", "0x_", "1_000", ".nan", ".inf", "1e999", "9" * 5000,
     "%YAML 9.9\n---\n", "---\n", "...\n", "\t", "\x00", "\ufeff", "\ud800", "[" * 2000, "- " * 2000, "{a: " * 500,
     "|\n x", "'"]
)  # fmt: skip
"""What YAML can say and JSON cannot, and what YAML's reader stumbled over."""


@effort(150)
@given(st.data())
def test_a_file_is_read_or_refused_with_its_place(data: st.DataObject) -> None:
    """YAML with anything in it gives mappings of JSON values, or one refusal that names the file."""
    text = manifest_files.write(data.draw(DOCUMENTS.filter(lambda document: isinstance(document, dict))))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(SCRAPS) + text[at:]
    text = data.draw(damaged_text(text)) if text.isascii() and data.draw(st.booleans()) else text
    try:
        documents = list(manifest_files.parse(text, "world.yaml"))
    except ManifestInvalid as refusal:
        refused = refusal
    else:
        for document in documents:
            assert json.loads(json.dumps(document, allow_nan=False)) == document
        return
    assert refused.detail.startswith("world.yaml")


@effort(60)
@given(SCRAPS, st.sampled_from(["{}", "agents: {}", "agents: [%]", "agents:\n  a:\n    b: %", "%", "- %"]))
def test_no_scrap_of_yaml_gets_through(scrap: str, text: str) -> None:
    """Wherever something that only YAML can say stands, the file is refused or it is plain JSON."""
    found = taken(lambda: list(manifest_files.parse(text.replace("%", scrap), "f")), quotes=True)
    for document in found or []:
        assert isinstance(document, dict)
