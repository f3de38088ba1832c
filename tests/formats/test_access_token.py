"""Access tokens (RFC 9068), written and read by the same code."""

from __future__ import annotations

import dataclasses
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import InvalidToken, Malformed
from broker.formats import access_token, jwk
from broker.formats.access_token import AccessClaims
from tests.formats.forge import NOW, ed25519, p256, token

ISSUER = "https://broker.example"
AUDIENCE = "https://broker.example/openai/v1"
KEYS = {
    "key-1": jwk.from_key(p256().public_key(), kid="key-1"),
    "key-2": jwk.from_key(ed25519().public_key(), kid="key-2"),
}
JKT = KEYS["key-1"].thumbprint
CLAIMS = AccessClaims(
    issuer=ISSUER,
    subject="alice",
    audience=(AUDIENCE,),
    client_id="ci/build",
    jti="id-1",
    issued_at=NOW,
    expires_at=NOW + 300,
    jkt=JKT,
    scope="models.call",
    instance="instance-1",
    actor={"sub": "ci/build", "act": {"sub": "ci/parent"}},
)
PAYLOAD = {
    "iss": ISSUER,
    "sub": "alice",
    "aud": AUDIENCE,
    "client_id": "ci/build",
    "jti": "id-1",
    "iat": NOW,
    "exp": NOW + 300,
    "cnf": {"jkt": JKT},
}


def verify(text: str, **changed: Any) -> AccessClaims:
    """Verifies as the gateway would."""
    arguments: dict[str, Any] = {"keys": KEYS, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW, **changed}
    return access_token.verify(text, **arguments)


def made(**changed: Any) -> str:
    """A token under our own key with other claims; a change to None takes the claim out."""
    payload = {name: value for name, value in {**PAYLOAD, **changed}.items() if value is not None}
    return token({"alg": "ES256", "kid": "key-1", "typ": "at+jwt"}, payload, p256())


NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(
    st.builds(
        AccessClaims,
        issuer=st.just(ISSUER),
        subject=NAMES,
        audience=st.lists(NAMES, max_size=2).map(lambda more: (*more, AUDIENCE)),
        client_id=NAMES,
        jti=NAMES,
        issued_at=st.just(NOW),
        expires_at=st.integers(NOW + 1, NOW + 10**6),
        jkt=st.none() | st.just(JKT),
        scope=st.just("") | NAMES,
        instance=st.none() | NAMES,
        actor=st.none() | st.dictionaries(NAMES, NAMES, max_size=3),
    ),
    st.booleans(),
)
def test_what_is_minted_is_read(claims: AccessClaims, edwards: bool) -> None:
    """Every claim survives, under either kind of key."""
    text = access_token.mint(claims, key=ed25519() if edwards else p256(), kid="key-2" if edwards else "key-1")
    assert verify(text) == claims


def test_a_token_is_an_rfc_9068_token() -> None:
    """Any JWT library reads it: header, required claims, `cnf` and the whole `act` chain."""
    text = access_token.mint(CLAIMS, key=p256(), kid="key-1")
    assert jwt.get_unverified_header(text) == {"alg": "ES256", "kid": "key-1", "typ": "at+jwt"}
    read = jwt.decode(
        text,
        p256().public_key(),
        algorithms=["ES256"],
        options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
    )
    assert read == {**PAYLOAD, "scope": "models.call", "instance": "instance-1", "act": CLAIMS.actor}


@pytest.mark.parametrize(("past_exp_s", "alive"), [(-1, True), (-0.001, True), (0, False), (1, False)])
def test_a_token_is_dead_at_exp(past_exp_s: float, alive: bool) -> None:
    """Alive until just before `exp`, dead at that second, with no leeway."""
    text = access_token.mint(CLAIMS, key=p256(), kid="key-1")
    if alive:
        assert verify(text, now=CLAIMS.expires_at + past_exp_s) == CLAIMS
        return
    with pytest.raises(InvalidToken) as caught:
        verify(text, now=CLAIMS.expires_at + past_exp_s)
    assert caught.value.reason == "expired"


@pytest.mark.parametrize(("before_s", "alive"), [(0, True), (1, False)])
def test_a_token_lives_from_iat_and_nbf(before_s: int, alive: bool) -> None:
    """A token from the future is refused: our own clock wrote it."""
    for text in (made(), made(iat=NOW - 50, nbf=NOW)):
        if alive:
            assert verify(text, now=NOW - before_s).subject == "alice"
            continue
        with pytest.raises(InvalidToken):
            verify(text, now=NOW - before_s)


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "client_id", "jti", "iat", "exp"])
def test_every_required_claim_must_be_there(name: str) -> None:
    """RFC 9068 §2.2: a token under our own key without any one of them is refused."""
    assert verify(made()).subject == "alice"
    with pytest.raises(InvalidToken):
        verify(made(**{name: None}))


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://broker.example/"}, {"iss": "HTTPS://broker.example"}, {"iss": [ISSUER]},
        {"aud": AUDIENCE + "/"}, {"aud": [AUDIENCE + "/x", "y"]},
        {"aud": []}, {"aud": {AUDIENCE: 1}}, {"aud": [AUDIENCE, 1]}, {"sub": 1}, {"sub": ""}, {"sub": "a\x00"},
        {"jti": "a" * 257}, {"client_id": []},
        {"exp": str(NOW + 300)}, {"exp": True}, {"iat": False}, {"scope": ["a"]}, {"scope": 1}, {"instance": 1},
        {"act": "a"}, {"act": ["a"]},
    ],
)  # fmt: skip
def test_claims_of_another_shape_are_refused(changed: dict[str, object]) -> None:
    """Issuer and audience compare exactly; every claim has its type."""
    with pytest.raises(InvalidToken):
        verify(made(**changed))


@pytest.mark.parametrize(
    "cnf",
    [{}, "x", [], {"jkt": "x"}, {"jkt": 1}, {"x5t#S256": "x" * 43}, {"jkt": JKT, "x5t#S256": "x"}, {"jkt": JKT + "x"}],
)
def test_a_binding_that_cannot_be_checked_is_refused(cnf: object) -> None:
    """A `cnf` we do not understand must never pass for a bearer token."""
    with pytest.raises(InvalidToken):
        verify(made(cnf=cnf))


def test_one_of_several_audiences_is_enough() -> None:
    """The resource that was called must be among them."""
    text = access_token.mint(
        dataclasses.replace(CLAIMS, audience=("https://other.example", AUDIENCE)), key=p256(), kid="key-1"
    )
    assert verify(text).audience == ("https://other.example", AUDIENCE)
    with pytest.raises(InvalidToken) as caught:
        verify(text, audience="https://third.example")
    assert caught.value.reason == "wrong_audience"


def test_keys_are_ours_and_chosen_by_kid() -> None:
    """A kid of another of our keys, of none, or no kid at all is refused."""
    assert verify(token({"alg": "EdDSA", "kid": "key-2", "typ": "at+jwt"}, PAYLOAD, ed25519())).subject == "alice"
    for header in ({"kid": "key-2"}, {"kid": "key-3"}, {"kid": "key-1 "}, {}):
        with pytest.raises(InvalidToken):
            verify(token({"alg": "ES256", "typ": "at+jwt", **header}, PAYLOAD, p256()))


@pytest.mark.parametrize("changed", [{"audience": ()}, {"expires_at": NOW}, {"expires_at": NOW - 1}])
def test_a_token_for_nobody_or_no_time_is_not_minted(changed: dict[str, Any]) -> None:
    """Without an audience or a lifetime there is nothing to sign."""
    with pytest.raises(Malformed):
        access_token.mint(dataclasses.replace(CLAIMS, **changed), key=p256(), kid="key-1")


def test_a_long_common_prefix_is_no_identity() -> None:
    """LiteLLM CVE-2026-35030: two tokens that begin alike are two tokens; each is judged to its last character."""
    text = access_token.mint(CLAIMS, key=ed25519(), kid="key-2")
    other = access_token.mint(dataclasses.replace(CLAIMS, jti="id-2"), key=ed25519(), kid="key-2")
    assert text[:100] == other[:100]
    assert (verify(text).jti, verify(other).jti) == ("id-1", "id-2")
    with pytest.raises(InvalidToken):
        verify(text.rpartition(".")[0] + "." + other.rpartition(".")[2])
