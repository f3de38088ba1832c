"""The specification of attesters, and of registered keys: whatever is wrong is refused when it is proposed."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.errors import ManifestInvalid
from broker.formats import jwk
from broker.identity import agents
from broker.identity.attesters.attester import OIDC_ALGORITHMS, parse
from tests.formats.forge import ed25519, p256, p384, rsa

SPEC: dict[str, Any] = {"kind": "oidc", "issuer": "https://issuer.example", "audience": "https://broker.example"}
KEY = jwk.to_members(p256().public_key())
PRIVATE = {**KEY, "d": KEY["x"]}


def test_a_short_specification_has_safe_values_for_the_rest() -> None:
    """Without more words: two asymmetric algorithms, discovery, bearer evidence of at most a day."""
    found = parse("github", SPEC)
    assert (found.status, sorted(found.algorithms)) == ("active", ["ES256", "RS256"])
    assert (found.jwks, found.jwks_uri, found.one_use, found.max_lifetime_s) == ((), "", False, 86_400)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"kind": "saml"}, "`kind` must be one of"),
        ({"kind": None}, "`kind` must be one of"),
        ({"isuer": "x"}, "unknown member `isuer`"),
        ({"issuer": None}, "`issuer` is required"),
        ({"issuer": ""}, "`issuer` is required"),
        ({"issuer": "x" * 2049}, "`issuer` is required"),
        ({"issuer": "issuer.example"}, "`issuer` must be a URL"),
        ({"issuer": "ftp://issuer.example"}, "`issuer` must be a URL"),
        ({"issuer": "https://issuer.example?a=1"}, "`issuer` must be a URL"),
        ({"issuer": "https://issuer.example#a"}, "`issuer` must be a URL"),
        ({"issuer": "https://user@issuer.example"}, "`issuer` must be a URL"),
        ({"issuer": "https://:secret@issuer.example"}, "`issuer` must be a URL"),
        ({"issuer": "https://issuer.example:99999"}, "`issuer` must be a URL"),
        ({"issuer": "https://[::1"}, "`issuer` must be a URL"),
        ({"issuer": "https://"}, "`issuer` must be a URL"),
        ({"issuer": "https://issuer.example\n"}, "`issuer` must be a URL"),
        ({"audience": None}, "`audience` is required"),
        ({"audience": ["a"]}, "`audience` is required"),
        ({"audience": ""}, "`audience` is required"),
        ({"algorithms": []}, "`algorithms` may list"),
        ({"algorithms": "RS256"}, "`algorithms` may list"),
        ({"algorithms": ["HS256"]}, "`algorithms` may list"),
        ({"algorithms": ["none"]}, "`algorithms` may list"),
        ({"algorithms": ["RS256", "rs256"]}, "`algorithms` may list"),
        ({"jwks_uri": "jwks"}, "`jwks_uri` must be a URL"),
        ({"jwks_uri": "https://user@issuer.example/jwks"}, "`jwks_uri` must be a URL"),
        ({"jwks_uri": 7}, "`jwks_uri` is required and must be a text"),
        ({"jwks_uri": "https://i.example/jwks", "jwks": {"keys": [KEY]}}, "not both"),
        ({"jwks": [KEY]}, "`jwks` must be a JWK Set"),
        ({"jwks": {"keys": []}}, "holds no key"),
        ({"jwks": {"keys": [{"kty": "oct", "k": "AAAA"}]}}, "private members"),
        ({"jwks": {"keys": [PRIVATE]}}, "private members"),
        ({"jwks": {"keys": [jwk.to_members(rsa(1024).public_key())]}}, "holds no key"),
        ({"one_use": "yes"}, "`one_use` must be true or false"),
        ({"one_use": 1}, "`one_use` must be true or false"),
        ({"max_lifetime_s": 59}, "`max_lifetime_s` must be between"),
        ({"max_lifetime_s": 86_401}, "`max_lifetime_s` must be between"),
        ({"max_lifetime_s": True}, "`max_lifetime_s` must be between"),
        ({"max_lifetime_s": 60.5}, "`max_lifetime_s` must be between"),
    ],
    ids=lambda value: str(value)[:25],
)
def test_a_wrong_member_is_refused_by_name(changed: dict[str, Any], says: str) -> None:
    """The text names the attester, the member and what to write."""
    with pytest.raises(ManifestInvalid, match=says) as refused:
        parse("github", {**SPEC, **changed})
    assert refused.value.detail.startswith("attester github: ")


def test_an_attester_of_keys_takes_no_other_members() -> None:
    """There is one attester of registered keys, and nothing to set on it."""
    with pytest.raises(ManifestInvalid, match="unknown member `issuer`"):
        parse("keys", {"kind": "key", "issuer": "https://issuer.example"})


def test_only_asymmetric_algorithms_can_be_listed() -> None:
    """No list can ever hold "none" or a shared secret's algorithm."""
    assert not {name for name in OIDC_ALGORITHMS if name.startswith("HS") or name.lower() == "none"}


@pytest.mark.parametrize("key", [p256(), p384(), ed25519(), rsa()], ids=["P-256", "P-384", "Ed25519", "RSA"])
def test_registered_keys_come_back_as_they_were_stored(key: Any) -> None:
    """Thumbprint, name and algorithms survive the table, so that a restart widens nothing."""
    members = {**jwk.to_members(key.public_key()), "kid": "mine"}
    (known,) = agents.parse_keys([members], "agent x")
    row = agents.AgentRow(
        id="x", kind="client", owner="o", purpose="p", ceiling="[]", status="active", enrolled_by="",
        keys=agents.stored_keys((known,)), created_at=0,
    )  # fmt: skip
    assert agents.load(row).keys == (known,)


def test_an_rsa_key_keeps_the_one_algorithm_it_was_given() -> None:
    """RFC 8725 §3.1: `alg` in the JWK is the only algorithm, also after the table."""
    known = agents.parse_keys([{**jwk.to_members(rsa().public_key()), "alg": "PS256"}], "agent x")
    row = agents.AgentRow(
        id="x", kind="client", owner="o", purpose="p", ceiling="[]", status="active", enrolled_by="",
        keys=agents.stored_keys(known), created_at=0,
    )  # fmt: skip
    assert agents.load(row).keys[0].algorithms == {"PS256"}


@pytest.mark.parametrize(
    "keys",
    [
        "x",
        {"keys": [KEY]},
        ["x"],
        [PRIVATE],
        [{**KEY, "x": "AA"}],
        [jwk.to_members(rsa(1024).public_key())],
        [{**KEY, "use": "enc"}],
        [KEY] * 11,
    ],
    ids=lambda value: str(value)[:25],
)
def test_keys_that_cannot_be_registered_are_refused(keys: object) -> None:
    """Private, tiny, foreign or too many: named, and nothing is registered."""
    with pytest.raises(ManifestInvalid, match="agent x: `keys`"):
        agents.parse_keys(keys, "agent x: `keys`")


def test_ten_keys_can_be_registered() -> None:
    """The bound is ten: a stranger's assertion in a client's name costs at most so many verifications."""
    keys = [ec.derive_private_key(n, ec.SECP256R1()).public_key() for n in range(1, 11)]
    assert len(agents.parse_keys([jwk.to_members(key) for key in keys], "agent x")) == 10
