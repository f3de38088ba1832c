"""The thin verifier: the RFCs' own examples, and equal to PyJWT except where it is stricter on purpose."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import BrokerError, InvalidSignature, Malformed
from broker.formats import base64url, canonical_json, jwk, jws
from tests.formats.forge import ed25519, p256, p384, part, rsa, token

BOTH = frozenset({"ES256", "EdDSA"})
ES256 = jwk.from_key(p256().public_key())
EDDSA = jwk.from_key(ed25519().public_key())


def typed(u: jws.Unverified) -> jws.Unverified:
    """The RFCs' examples say no type; this gives them one without touching what was signed."""
    return dataclasses.replace(u, header={**u.header, "typ": "JWT"})


def test_the_es256_example_of_rfc_7515() -> None:
    """Appendix A.3: the token verifies under the published key."""
    key = jwk.parse_public(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    )
    u = jws.unverified(
        "eyJhbGciOiJFUzI1NiJ9"
        ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
        ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    payload = jws.verify(typed(u), key, algorithms=BOTH, typ="JWT")
    assert jws.claims(payload) == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}


RFC_8037_SEED = base64url.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
RFC_8037_SIGNATURE = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"


def test_the_ed25519_example_of_rfc_8037() -> None:
    """Appendix A.4 and A.5: the token verifies, and the published key signs it again, byte for byte."""
    private = Ed25519PrivateKey.from_private_bytes(RFC_8037_SEED)
    key = jwk.from_key(private.public_key())
    u = jws.unverified(f"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.{RFC_8037_SIGNATURE}")
    assert jws.verify(typed(u), key, algorithms=BOTH, typ="JWT") == b"Example of Ed25519 signing"
    assert private.sign(u.signing_input) == u.signature


@pytest.mark.parametrize("key", [p256(), ed25519()])
def test_pyjwt_verifies_what_is_signed_here(key: jwk.PrivateKey) -> None:
    """A token of ours is an ordinary one: PyJWT reads the same header and claims."""
    header = {"alg": jwk.algorithm_of(key), "kid": "k", "typ": "at+jwt"}
    claims = {"sub": "ü", "n": 1, "list": ["a"]}
    signed = jws.sign(header, claims, key)
    assert jwt.decode(signed, key.public_key(), algorithms=[header["alg"]]) == claims
    assert jwt.get_unverified_header(signed) == header


def pyjwt(text: str, key: jwk.PublicKey) -> dict[str, Any] | None:
    """PyJWT's claims, or None if it refuses; times and audience are not its business here."""
    options: dict[str, Any] = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
    options.update(verify_sub=False, verify_jti=False, verify_iss=False)
    try:
        return jwt.decode(text, key.key, algorithms=list(BOTH), options=options)  # type: ignore[arg-type]  # a plain dict
    except (jwt.PyJWTError, ValueError, TypeError):  # TypeError: how PyJWT refuses a key of another kind
        return None


def ours(text: str, key: jwk.PublicKey) -> dict[str, Any] | None:
    """Our claims, or None if we refuse."""
    try:
        return jws.claims(jws.verify(jws.unverified(text), key, algorithms=BOTH, typ="JWT"))
    except (Malformed, InvalidSignature):
        return None


def stricter(text: str) -> bool:
    """Whether one of the reasons holds for which we refuse what PyJWT may take.

    Each part must be canonical base64url, or one token would have many spellings and digests. Header and payload must
    be JSON that names nothing twice. The header must say the type, and nothing that redirects verification. The
    kid must be fit for a lookup.
    """
    try:
        first, middle, last = text.split(".")
        header = canonical_json.parse(base64url.decode(first))
        canonical_json.parse(base64url.decode(middle))
        base64url.decode(last)
    except (ValueError, BrokerError):
        return True
    if not isinstance(header, dict) or not middle:
        return True
    redirects = {"crit", "jku", "x5u", "x5c", "zip", "b64", "jwk"} & set(header)
    kid = header.get("kid", "k")
    typ = header.get("typ")
    return bool(
        redirects or not isinstance(typ, str) or typ.lower() not in ("jwt", "application/jwt")
    ) or not jwk.is_kid(kid)


def agree(text: str, key: jwk.PublicKey) -> None:
    """What we take, PyJWT takes and reads the same; what only PyJWT takes, we refuse for a stated reason."""
    mine, theirs = ours(text, key), pyjwt(text, key)
    if mine is not None:
        assert theirs == mine
    elif theirs is not None:
        assert stricter(text)


HONEST = {
    "ES256": (token({"alg": "ES256", "typ": "JWT"}, {"sub": "a", "n": 1}, p256()), ES256),
    "EdDSA": (token({"alg": "EdDSA", "typ": "JWT"}, {"sub": "a", "n": 1}, ed25519()), EDDSA),
}


@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
@given(st.data())
def test_altered_tokens_are_judged_as_pyjwt_judges_them(alg: str, data: st.DataObject) -> None:
    """Any character replaced, removed or added, anywhere."""
    text, key = HONEST[alg]
    assert ours(text, key) == pyjwt(text, key) == {"sub": "a", "n": 1}
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(st.text("AQgwZz09-_.+/= \né", max_size=3))
    agree(text[:at] + piece + text[at + data.draw(st.integers(0, 3)) :], key)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["JWT", "jwt", "application/JWT", "at+jwt", "none", "ES256", "k", ""]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["sub", "exp", "jwk"]), inner, max_size=2)
    ),
    max_leaves=4,
)
HEADERS = st.fixed_dictionaries(
    {
        "alg": st.sampled_from(["ES256", "EdDSA"])
        | st.sampled_from(["none", "HS256", "ES384", "RS256", "es256"])
        | JSON,
        "typ": st.just("JWT") | JSON,
    },
    optional=dict.fromkeys(("kid", "crit", "jku", "x5u", "x5c", "zip", "jwk", "b64", "cty", "other"), JSON),
)


@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
@given(HEADERS, st.dictionaries(st.sampled_from(["sub", "iss", "x"]), JSON, max_size=3) | JSON)
def test_any_signed_header_and_payload_are_judged_as_pyjwt_judges_them(
    alg: str, header: object, payload: object
) -> None:
    """Honestly signed, whatever the header and payload say."""
    key = p256() if alg == "ES256" else ed25519()
    agree(token(header, payload, key), HONEST[alg][1])


@pytest.mark.parametrize("alg", ["ES256", "EdDSA"])
@given(st.binary(min_size=60, max_size=70) | st.binary(min_size=64, max_size=64))
def test_any_signature_is_judged_as_pyjwt_judges_it(alg: str, signature: bytes) -> None:
    """Arbitrary bytes of about the right length are no signature to either."""
    text, key = HONEST[alg]
    forged = text.rpartition(".")[0] + "." + part(signature)
    assert ours(forged, key) is None
    assert pyjwt(forged, key) is None


@pytest.mark.parametrize(
    ("said", "wanted", "taken"),
    [
        ("at+jwt", "at+jwt", True), ("AT+JWT", "at+jwt", True), ("application/at+jwt", "at+jwt", True),
        ("Application/AT+jwt", "at+jwt", True),
        ("JWT", "at+jwt", False), ("", "at+jwt", False), ("at+jwt ", "at+jwt", False),
        ("application/application/at+jwt", "at+jwt", False),
        ("text/at+jwt", "at+jwt", False), (None, "at+jwt", False), (["at+jwt"], "at+jwt", False),
        ("dpop+jwt", "at+jwt", False),
    ],
)  # fmt: skip
def test_types_compare_as_media_types(said: object, wanted: str, taken: bool) -> None:
    """RFC 7515 §4.1.9: without case, "application/" may be left out; nothing else is the same type."""
    assert jws.has_type({"typ": said}, wanted) is taken


@pytest.mark.parametrize(
    ("header", "key", "public"),
    [
        ({"alg": "ES256"}, p256("other"), ES256),
        ({"alg": "ES256"}, p384(), jwk.from_key(p384().public_key())),
        ({"alg": "ES384"}, p384(), jwk.from_key(p384().public_key())),
        ({"alg": "EdDSA"}, p256(), ES256),
        ({"alg": "ES256"}, ed25519(), EDDSA),
        ({"alg": "RS256"}, rsa(), jwk.from_key(rsa().public_key())),
        ({"alg": "ES256"}, rsa(), jwk.from_key(rsa().public_key())),
    ],
)
def test_algorithm_and_key_must_fit(header: dict[str, str], key: Any, public: jwk.PublicKey) -> None:
    """Another key, curve or kind than the algorithm means is refused, whatever the caller would take."""
    text = token({**header, "typ": "JWT"}, {}, key)
    for algorithms in (BOTH, BOTH | {header["alg"]}):
        with pytest.raises(InvalidSignature):
            jws.verify(jws.unverified(text), public, algorithms=algorithms, typ="JWT")


def test_the_caller_narrows_the_algorithms() -> None:
    """An honest token in an algorithm that the caller does not take is refused."""
    text, key = HONEST["EdDSA"]
    with pytest.raises(InvalidSignature):
        jws.verify(jws.unverified(text), key, algorithms=frozenset({"ES256"}), typ="JWT")


def test_a_key_that_was_put_together_wrongly_verifies_nothing() -> None:
    """A key whose list of algorithms is wrong is refused by its kind."""
    wrong = dataclasses.replace(EDDSA, algorithms=frozenset({"ES256"}))
    with pytest.raises(InvalidSignature, match="ES256 or EdDSA"):
        jws.verify(jws.unverified(HONEST["ES256"][0]), wrong, algorithms=BOTH, typ="JWT")


@pytest.mark.parametrize(("extra", "taken"), [(0, True), (1, False)])
def test_length_is_bounded(extra: int, taken: bool) -> None:
    """A token of exactly `max_bytes` is looked at, one longer is not."""
    text, _ = HONEST["ES256"]
    if taken:
        assert jws.unverified(text, max_bytes=len(text)).header["alg"] == "ES256"
        return
    with pytest.raises(Malformed):
        jws.unverified(text, max_bytes=len(text) - extra)


def test_only_the_keys_own_algorithm_is_signed() -> None:
    """A header that claims another algorithm than the key signs with is never written."""
    with pytest.raises(Malformed):
        jws.sign({"alg": "ES256"}, {}, ed25519())
    with pytest.raises(Malformed):
        jws.sign({"alg": "ES384"}, {}, p384())
    with pytest.raises(Malformed):
        jws.sign({"alg": "ES256"}, {"x": object()}, p256())


@pytest.mark.parametrize(
    "payload", [b"[]", b'"a"', b"1", b"null", b"", b'{"a":1,"a":1}', b"{", json.dumps({"a": "\ud800"}).encode()]
)
def test_a_payload_is_one_clear_object(payload: bytes) -> None:
    """Anything but an object, or one that could be read in two ways, is refused."""
    with pytest.raises(Malformed):
        jws.claims(payload)
