"""Evidence that others signed: which key, which algorithm, which claims."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import EvidenceRejected
from broker.formats import base64url, evidence_jwt, jwk
from tests.formats.forge import NOW, Key, ed25519, p256, p384, part, rsa, token

ISSUER, AUDIENCE = "https://platform.example", "https://broker.example"
CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "repo:a/b", "iat": NOW, "exp": NOW + 600}
SIGNERS: dict[str, Key] = {"RS256": rsa(), "ES256": p256(), "ES384": p384(), "EdDSA": ed25519()}
KEYS = tuple(jwk.from_key(key.public_key(), kid=alg) for alg, key in SIGNERS.items())


def verify(text: str, **changed: Any) -> dict[str, object]:
    """Verifies as an attester would."""
    arguments: dict[str, Any] = {
        "keys": KEYS, "algorithms": evidence_jwt.ASYMMETRIC, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW,
        "max_lifetime_s": 3600,
        **changed,
    }  # fmt: skip
    return evidence_jwt.verify(text, **arguments)


def made(alg: str = "ES256", header: Any = None, **changed: Any) -> str:
    """The platform's token with other claims; a change to None takes the claim out."""
    payload = {name: value for name, value in {**CLAIMS, **changed}.items() if value is not None}
    return token({"alg": alg, "kid": alg, "typ": "JWT", **(header or {})}, payload, SIGNERS[alg])


def rejected(text: str, reason: str | None = None, **changed: Any) -> None:
    """Asserts that it proves nothing."""
    with pytest.raises(EvidenceRejected) as caught:
        verify(text, **changed)
    assert reason is None or caught.value.reason == reason


@pytest.mark.parametrize("alg", SIGNERS)
def test_each_algorithm_verifies(alg: str) -> None:
    """RSA, two curves and Ed25519; the claims come back whole."""
    assert verify(made(alg, extra={"a": [1]})) == {**CLAIMS, "extra": {"a": [1]}}


def test_rsa_pss_verifies() -> None:
    """PS256, by the same RSA key; an RS256 signature is no PS256 signature."""
    signing_input = f"{part({'alg': 'PS256', 'kid': 'RS256'})}.{part(CLAIMS)}"
    signature = rsa().sign(signing_input.encode(), padding.PSS(padding.MGF1(SHA256()), 32), SHA256())
    assert verify(f"{signing_input}.{base64url.encode(signature)}") == CLAIMS
    rejected(token({"alg": "PS256", "kid": "RS256"}, CLAIMS, rsa()), "invalid_signature")


@pytest.mark.parametrize("name", ["iss", "aud", "exp", "iat"])
def test_every_required_claim_must_be_there(name: str) -> None:
    """One missing claim is a refusal; `iat` is needed because the lifetime is bounded."""
    rejected(made("ES256", None, **{name: None}), "claim_missing")


def test_without_a_bound_iat_may_be_missing() -> None:
    """Only `exp` is needed to know that a token ends."""
    assert "iat" not in verify(made(iat=None), max_lifetime_s=None)
    rejected(made(exp=None), "claim_missing", max_lifetime_s=None)


@pytest.mark.parametrize(("past_exp_s", "alive"), [(-1, True), (0, False), (1, False)])
@pytest.mark.parametrize("leeway_s", [0, 30])
def test_evidence_is_dead_at_exp(past_exp_s: int, alive: bool, leeway_s: int) -> None:
    """Alive before `exp` plus leeway, dead at that second."""
    now = NOW + 600 + leeway_s + past_exp_s
    if alive:
        assert verify(made(), now=now, leeway_s=leeway_s) == CLAIMS
        return
    rejected(made(), "expired", now=now, leeway_s=leeway_s)


@pytest.mark.parametrize(("before_s", "reason"), [(30, None), (31, "issued_in_future")])
def test_a_clock_ahead_of_ours_is_forgiven_by_the_leeway(before_s: int, reason: str | None) -> None:
    """30 seconds ahead pass, 31 do not."""
    if reason is None:
        assert verify(made(), now=NOW - before_s) == CLAIMS
        return
    rejected(made(), reason, now=NOW - before_s)


@pytest.mark.parametrize(("lifetime_s", "reason"), [(3599, None), (3600, None), (3601, "lives_too_long")])
def test_lifetime_is_bounded(lifetime_s: int, reason: str | None) -> None:
    """Exactly the longest lifetime passes, a second more does not."""
    text = made(exp=NOW + lifetime_s)
    if reason is None:
        assert verify(text)["exp"] == NOW + lifetime_s
        return
    rejected(text, reason)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"iss": ISSUER + "/"}, "wrong_issuer"), ({"iss": "https://evil.example"}, "wrong_issuer"),
        ({"iss": [ISSUER]}, None), ({"aud": "other"}, "wrong_audience"),
        ({"aud": [AUDIENCE + "/"]}, "wrong_audience"), ({"aud": []}, None), ({"aud": {AUDIENCE: 1}}, None),
        ({"exp": str(NOW + 60)}, None), ({"exp": True}, None),
        ({"nbf": NOW + 31}, "not_yet_valid"), ({"nbf": "x"}, None), ({"iat": "x"}, None),
    ],
)  # fmt: skip
def test_other_claims_are_refused(changed: dict[str, Any], reason: str | None) -> None:
    """Issuer and audience compare exactly, and every claim has its type."""
    rejected(made(**changed), reason)


def test_one_of_several_audiences_is_enough() -> None:
    """RFC 7519 §4.1.3: we must be among them."""
    assert verify(made(aud=["other", AUDIENCE]))["aud"] == ["other", AUDIENCE]


@pytest.mark.parametrize("typ", ["JWT", "jwt", "JOSE", "application/jwt", "client-authentication+jwt"])
def test_usual_types_pass(typ: str) -> None:
    """And so does a token without a type, as many platforms send it."""
    assert verify(made(header={"typ": typ})) == CLAIMS
    assert verify(token({"alg": "ES256", "kid": "ES256"}, CLAIMS, p256())) == CLAIMS


@pytest.mark.parametrize(
    "typ", ["dpop+jwt", "at+jwt", "AT+JWT", "application/at+jwt", "logout+jwt", "secevent+jwt", "", 1, None, []]
)
def test_a_token_made_for_something_else_is_no_evidence(typ: object) -> None:
    """RFC 8725 §3.11: a proof, an access token or a logout token is refused by its type."""
    rejected(made(header={"typ": typ}), "wrong_type")


def test_the_caller_may_take_other_types() -> None:
    """An attester that knows its platform's type names it, and only it."""
    text = made(header={"typ": "oauth-id-jag+jwt"})
    rejected(text)
    assert verify(text, types=frozenset({"oauth-id-jag+jwt"})) == CLAIMS
    rejected(made(), types=frozenset({"oauth-id-jag+jwt"}))


@pytest.mark.parametrize("alg", ["RS256", "ES256"])
def test_the_attesters_algorithms_decide(alg: str) -> None:
    """An honest signature in an algorithm that is not taken from this issuer is refused."""
    rejected(made(alg), "wrong_algorithm", algorithms=frozenset({"EdDSA"}))


@pytest.mark.parametrize("kid", ["ES384", "RS256", "unknown", "es256", "ES256 "])
def test_a_kid_must_match_exactly_and_fit_the_algorithm(kid: str) -> None:
    """A kid of another key, of none, or in another case selects nothing."""
    rejected(made(header={"kid": kid}), "unknown_key")


def without_kid(keys: Sequence[jwk.PublicKey]) -> tuple[jwk.PublicKey, ...]:
    """The same keys, unnamed."""
    return tuple(dataclasses.replace(key, kid=None) for key in keys)


def test_without_a_kid_exactly_one_key_must_fit() -> None:
    """One that fits is taken, named or not; two that fit are refused, even if one of them would verify."""
    text = token({"alg": "ES256"}, CLAIMS, p256())
    another = jwk.from_key(p256("another").public_key())
    assert verify(text) == verify(text, keys=without_kid(KEYS)) == CLAIMS
    rejected(text, "unknown_key", keys=(*KEYS, another))
    rejected(text, "unknown_key", keys=())


def test_a_kid_is_never_ignored() -> None:
    """A token that names a key is not verified under an unnamed one."""
    rejected(made(), "unknown_key", keys=without_kid(KEYS))


def test_two_keys_of_one_name_are_refused() -> None:
    """Which one was meant would be a guess."""
    rejected(made(), "unknown_key", keys=(*KEYS, jwk.from_key(p256("another").public_key(), kid="ES256")))


def test_a_published_alg_binds_the_key() -> None:
    """A key published for RS512 does not verify RS256."""
    key = jwk.parse_public({**jwk.to_members(rsa().public_key()), "alg": "RS512", "kid": "RS256"})
    rejected(made("RS256"), "unknown_key", keys=(key,))


def test_shared_secrets_are_never_taken() -> None:
    """Not even if a caller lists them by mistake."""
    mistaken = evidence_jwt.ASYMMETRIC | {"HS256", "none"}
    secret = "a-secret-that-is-long-enough-for-hs256"
    rejected(jwt.encode(CLAIMS, secret, algorithm="HS256"), "wrong_algorithm", algorithms=mistaken)
    rejected(f"{part({'alg': 'none'})}.{part(CLAIMS)}.", algorithms=mistaken)


def test_the_unverified_issuer() -> None:
    """Read from any token, forged or not; what cannot be read is refused."""
    assert evidence_jwt.unverified_issuer(made()[:-6] + "AAAAAA") == ISSUER
    for text in (
        "",
        "a.b.c",
        made(iss=None),
        made(iss=1),
        made(iss=""),
        made(iss="a\n"),
        f"{part({'alg': 'none'})}.{part(CLAIMS)}.",
    ):
        with pytest.raises(EvidenceRejected):
            evidence_jwt.unverified_issuer(text)


@given(st.data())
def test_altered_evidence_is_judged_as_pyjwt_judges_it(data: st.DataObject) -> None:
    """What we take after any alteration, PyJWT's own decoder takes too, and reads the same."""
    alg = data.draw(st.sampled_from(list(SIGNERS)))
    text = data.draw(st.sampled_from([made(alg), made(alg, iat=None), made(alg, aud=[AUDIENCE, "x"])]))
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + data.draw(st.text("AQgw09-_.= é", max_size=2)) + text[at + data.draw(st.integers(0, 2)) :]
    try:
        mine = verify(text, max_lifetime_s=None)
    except EvidenceRejected:
        return
    public = SIGNERS[alg].public_key()
    options: Any = {"verify_exp": False, "verify_iat": False}
    assert jwt.decode(text, public, algorithms=[alg], audience=AUDIENCE, issuer=ISSUER, options=options) == mine
