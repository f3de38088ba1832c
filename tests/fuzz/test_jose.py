"""Signed tokens and keys: whatever is sent, only what an honest key signed, and what it says, is taken."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError
from broker.formats import access_token, base64url, evidence_jwt, jwk, jws
from broker.formats.access_token import AccessClaims
from tests.formats.forge import NOW, ed25519, p256, p384, rsa
from tests.formats.test_jws import EDDSA, ES256, agree
from tests.formats.verifiers import KEYS, VERIFIERS, Verifier
from tests.fuzz.mutations import ODD, altered, damaged_text, spelled
from tests.fuzz.outcome import effort, taken
from tests.fuzz.tokens import PUBLIC_KEYS, WORDS, read, signed_by, tokens

ACCESS, DPOP, EVIDENCE = VERIFIERS
MEMBERS = [
    {**jwk.to_members(key.public_key()), "kid": "k", "use": "sig", "key_ops": ["verify"]}
    for key in (p256(), p384(), ed25519(), rsa())
]
REQUIRED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}


@pytest.mark.parametrize("verifier", [ACCESS, EVIDENCE], ids=lambda verifier: str(verifier.name))
@effort(150)
@given(st.data())
def test_only_what_was_signed_and_says_the_right_things_is_taken(verifier: Verifier, data: st.DataObject) -> None:
    """A token that passes is signed by a known key over exactly its bytes, and is for us, and now."""
    text = data.draw(tokens(verifier))
    if taken(lambda: verifier.verify(text)) is None:
        return
    header, payload = read(text)
    algorithms = {"key-1": "ES256", "ed": "EdDSA", "p384": "ES384"}
    kid = header.get("kid", {"ES256": "key-1", "EdDSA": "ed", "ES384": "p384"}[header["alg"]])
    assert header["alg"] == algorithms[kid]
    assert kid != "key-1" or signed_by(text, p256())
    assert payload["iss"] == "i"
    assert "a" in payload["aud"]
    leeway = 0 if verifier is ACCESS else 30
    assert payload["exp"] > NOW - leeway
    assert payload["iat"] <= NOW + leeway


@pytest.mark.parametrize("verifier", VERIFIERS, ids=lambda verifier: str(verifier.name))
@effort(100)
@given(st.data())
def test_no_other_text_is_the_same_token(verifier: Verifier, data: st.DataObject) -> None:
    """Whatever happens to a token's text, it is refused, unless nothing happened."""
    honest = verifier.token()
    text = data.draw(damaged_text(honest))
    assert (taken(lambda: verifier.verify(text)) is not None) is (text == honest)


@pytest.mark.parametrize("key", [ES256, EDDSA], ids=["ES256", "EdDSA"])
@effort(150)
@given(st.data())
def test_pyjwt_takes_what_is_taken_here(key: jwk.PublicKey, data: st.DataObject) -> None:
    """An independent verifier agrees on every token, but for the stated reasons for which ours is stricter."""
    verifier = data.draw(st.sampled_from(VERIFIERS))
    agree(data.draw(tokens(verifier)), key)


@effort(150)
@given(st.data())
def test_the_issuer_is_read_or_the_token_refused(data: st.DataObject) -> None:
    """Reading whose token it may be, before anything is verified, gives a text or a refusal."""
    text = data.draw(tokens(EVIDENCE))
    issuer = taken(lambda: evidence_jwt.unverified_issuer(text))
    assert issuer is None or (issuer == read(text)[1]["iss"] and issuer.isprintable())


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
CLAIMS = st.builds(
    AccessClaims,
    issuer=TEXT,
    subject=TEXT,
    audience=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    client_id=TEXT,
    jti=TEXT,
    issued_at=st.just(NOW),
    expires_at=st.integers(NOW + 1, NOW + 600),
    jkt=st.none() | st.just("A" * 43),
    scope=st.just("") | TEXT,
    instance=st.none() | TEXT,
    actor=st.none() | st.dictionaries(TEXT, TEXT | st.integers(0, 9), max_size=2),
)


@pytest.mark.parametrize(("kid", "key"), [("key-1", p256()), ("ed", ed25519())])
@effort(100)
@given(CLAIMS)
def test_what_is_minted_is_read_back(kid: str, key: jwk.PrivateKey, claims: AccessClaims) -> None:
    """Every claim comes back as it was written, until the second at which the token ends."""
    text = access_token.mint(claims, key=key, kid=kid)

    def verified(now: float) -> AccessClaims:
        return access_token.verify(text, keys=KEYS, issuer=claims.issuer, audience=claims.audience[-1], now=now)

    assert verified(claims.expires_at - 1) == claims
    assert taken(lambda: verified(claims.expires_at)) is None


@pytest.mark.parametrize("members", MEMBERS, ids=["P-256", "P-384", "Ed25519", "RSA"])
@effort(150)
@given(st.data())
def test_a_key_is_read_or_refused(members: dict[str, Any], data: st.DataObject) -> None:
    """A key that is taken holds no private member, and its thumbprint is that of RFC 7638 over what was sent."""
    odd = WORDS | PUBLIC_KEYS | st.sampled_from([*members.values(), "P-256", "P-384", "P-521", "AQAB", "AQ", "AA"])
    changed = data.draw(altered(members, odd=odd))
    if not isinstance(changed, dict):
        return
    key = taken(lambda: jwk.parse_public(changed))
    if key is None:
        return
    assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(changed)
    required = {name: changed[name] for name in REQUIRED[changed["kty"]]}
    digest = hashlib.sha256(json.dumps(required, separators=(",", ":")).encode()).digest()
    assert key.thumbprint == base64url.encode(digest)
    assert jwk.to_members(key) == required
    assert jwk.parse_public(jwk.to_members(key)).thumbprint == key.thumbprint
    assert key.algorithms


@effort(100)
@given(st.data())
def test_a_key_set_is_read_or_refused(data: st.DataObject) -> None:
    """A set that is taken has a name for each key, and only keys that are in it."""
    changed = data.draw(altered({"keys": MEMBERS}, odd=PUBLIC_KEYS))
    found = taken(lambda: jwk.parse_set(changed)) if isinstance(changed, dict) else None
    if found is not None:
        kids = [key.kid for key in found if key.kid is not None]
        assert len(kids) == len(set(kids))
        assert all(any(item.items() >= jwk.to_members(key).items() for item in changed["keys"]) for key in found)


@effort(100)
@given(st.data())
def test_what_stands_in_a_header_never_signs_or_verifies_by_itself(data: st.DataObject) -> None:
    """Taking a token apart gives its parts exactly, or a refusal; the header that it gives is what others read too."""
    header = data.draw(altered(EVIDENCE.header, odd=WORDS))
    text = f"{base64url.encode(data.draw(spelled(header)))}.{base64url.encode(b'{}')}.{base64url.encode(bytes(64))}"
    u = taken(lambda: jws.unverified(text, allow_jwk=data.draw(st.booleans())))
    if u is not None:
        assert (u.header, {}) == read(text)
        assert not {"crit", "jku", "x5u", "x5c", "zip", "b64"} & set(u.header)
        assert str(u.header["alg"]).lower() != "none"


@effort(100)
@given(st.sampled_from(ODD) | st.binary(max_size=20).map(lambda data: data.decode("latin-1")))
def test_a_token_of_one_odd_part_is_refused(odd: object) -> None:
    """No part of a token may be anything else than base64url of what belongs there."""
    text = odd if isinstance(odd, str) else json.dumps(odd)
    honest = ACCESS.token().split(".")
    for at in range(3):
        with pytest.raises(BrokerError):
            ACCESS.verify(".".join([*honest[:at], text, *honest[at + 1 :]]))
