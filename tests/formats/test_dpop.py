"""DPoP proofs (RFC 9449 §4.3), check by check."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from broker.errors import InvalidDpopProof, Malformed
from broker.formats import base64url, dpop, jwk
from tests.formats.forge import NOW, ed25519, p256, p384, rsa, token

URL = "https://broker.example/openai/v1/chat/completions"
JWK = jwk.to_members(p256().public_key())


def claims(**changed: Any) -> dict[str, Any]:
    """A proof's claims; a change to None takes the claim out."""
    complete = {"jti": "id-1", "htm": "POST", "htu": URL, "iat": NOW, **changed}
    return {name: value for name, value in complete.items() if value is not None}


def made(header: Any = None, **changed: Any) -> str:
    """A proof that somebody else made, signed by the honest key."""
    return token({"typ": "dpop+jwt", "alg": "ES256", "jwk": JWK, **(header or {})}, claims(**changed), p256())


def verify(proof: str, **changed: Any) -> dpop.Proof:
    """Verifies as the gateway would."""
    arguments: dict[str, Any] = {"method": "POST", "url": URL, "now": NOW, "access_token": None, **changed}
    return dpop.verify(proof, **arguments)


# RFC 9449 §5 and §7.1
RFC_HEADER = (
    "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJo"
    "RjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19"
)
RFC_TOKEN_PROOF = (
    f"{RFC_HEADER}."
    "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0I"
    "joxNTYyMjYyNjE2fQ"
    ".2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
)
RFC_RESOURCE_PROOF = (
    f"{RFC_HEADER}."
    "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZX"
    "NvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9"
    ".2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
)
RFC_ACCESS_TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
RFC_JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_the_token_request_of_rfc_9449() -> None:
    """§5: the RFC's proof verifies and its key has the thumbprint of §6.1."""
    proof = dpop.verify(
        RFC_TOKEN_PROOF, method="POST", url="https://server.example.com/token", now=1562262616, access_token=None
    )
    assert (proof.jkt, proof.jti, proof.iat, proof.nonce) == (RFC_JKT, "-BwC3ESc6acc2lTc", 1562262616, None)


def test_the_resource_request_of_rfc_9449() -> None:
    """§7.1: the RFC's proof is bound to the RFC's access token, and to no other."""
    request: dict[str, Any] = {
        "method": "GET",
        "url": "https://resource.example.org/protectedresource",
        "now": 1562262618,
    }
    assert dpop.verify(RFC_RESOURCE_PROOF, **request, access_token=RFC_ACCESS_TOKEN).jkt == RFC_JKT
    with pytest.raises(InvalidDpopProof):
        dpop.verify(RFC_RESOURCE_PROOF, **request, access_token=RFC_ACCESS_TOKEN + "x")


@pytest.mark.parametrize("key", [p256(), ed25519()])
@pytest.mark.parametrize("access_token", [None, "a.b.c"])
@pytest.mark.parametrize("nonce", [None, "server-nonce"])
def test_what_is_proved_verifies(key: jwk.PrivateKey, access_token: str | None, nonce: str | None) -> None:
    """With either kind of key, with and without a token and a nonce; query and fragment are left out."""
    made_here = dpop.prove(
        key, method="POST", url=URL + "?a=b#c", now=NOW + 0.9, jti="id", access_token=access_token, nonce=nonce
    )
    proof = verify(made_here, now=NOW + 1, access_token=access_token)
    public = jwk.from_key(key.public_key())
    assert (proof.jkt, proof.jti, proof.iat, proof.nonce, proof.public) == (public.thumbprint, "id", NOW, nonce, public)


@pytest.mark.parametrize(
    ("age_s", "taken"), [(-6, False), (-5.001, False), (-5, True), (0, True), (60, True), (60.001, False), (61, False)]
)
def test_a_proof_lives_for_its_window(age_s: float, taken: bool) -> None:
    """60 seconds back and 5 ahead, both included, and not a moment more (§11.1)."""
    if taken:
        assert verify(made(), now=NOW + age_s).iat == NOW
        return
    with pytest.raises(InvalidDpopProof):
        verify(made(), now=NOW + age_s)


def test_the_window_is_the_callers() -> None:
    """A narrower window refuses what the usual one takes."""
    assert verify(made(), now=NOW + 10, window_s=10).jti == "id-1"
    for now, settings in ((NOW + 11, {"window_s": 10}), (NOW - 1, {"future_s": 0})):
        with pytest.raises(InvalidDpopProof):
            verify(made(), now=now, **settings)


def test_a_proof_that_says_it_ended_is_dead() -> None:
    """`exp` and `nbf` are not needed, and honoured where present."""
    assert verify(made(exp=NOW + 1, nbf=NOW)).jti == "id-1"
    for name, value in (("exp", NOW - 5), ("nbf", NOW + 6)):
        with pytest.raises(InvalidDpopProof):
            verify(made(**{name: value}))


@pytest.mark.parametrize("name", ["jti", "htm", "htu", "iat"])
def test_every_required_claim_must_be_there(name: str) -> None:
    """§4.2: without any one of the four there is no proof."""
    with pytest.raises(InvalidDpopProof):
        verify(made(**{name: None}))


@pytest.mark.parametrize(
    "changed",
    [
        {"jti": ""}, {"jti": 1}, {"jti": "a" * 257}, {"jti": "a\n"}, {"jti": ["a"]}, {"iat": str(NOW)}, {"iat": True},
        {"iat": -1}, {"iat": 1e300},
        {"htm": "post"}, {"htm": "GET"}, {"htm": ["POST"]}, {"htu": ""}, {"htu": [URL]}, {"htu": 1}, {"nonce": 1},
        {"nonce": ""}, {"nonce": "a" * 257},
    ],
)  # fmt: skip
def test_claims_of_another_shape_are_refused(changed: dict[str, Any]) -> None:
    """Wrong types, empty and over-long values; the method's case counts (RFC 9110 §9.1)."""
    with pytest.raises(InvalidDpopProof):
        verify(made(**changed))


def test_jti_may_have_256_characters() -> None:
    """The longest id that is taken."""
    assert verify(made(jti="a" * 256)).jti == "a" * 256


ATH = base64url.encode(hashlib.sha256(b"token").digest())


@pytest.mark.parametrize("ath", [None, "", "x", ATH + "=", ATH[:-1], ATH.upper(), 1, [ATH], "ä" * 43])
def test_with_a_token_ath_must_be_its_digest(ath: object) -> None:
    """§4.3 step 12: missing, cut or another digest is refused."""
    assert verify(made(ath=ATH), access_token="token").jti == "id-1"
    with pytest.raises(InvalidDpopProof):
        verify(made(ath=ath), access_token="token")


@pytest.mark.parametrize(
    "htu",
    [
        URL, URL + "?model=x", URL + "#part", "HTTPS://BROKER.example/openai/v1/chat/completions",
        "https://broker.example:443/openai/v1/chat/completions",
        "https://broker.example/openai/v1/x/../chat/./completions",
        "https://broker.example/%6fpenai/v1/chat/completions",
        "https://broker.example:/openai/v1/chat/completions", "https://broker.example/../openai/v1/chat/completions",
    ],
)  # fmt: skip
def test_htu_is_compared_as_parsed_and_normalised(htu: str) -> None:
    """§4.3 with RFC 3986 §6.2.2 and §6.2.3: case, port, dot segments, needless escapes; query dropped."""
    assert verify(made(htu=htu)).jti == "id-1"


@pytest.mark.parametrize(
    "htu",
    [
        "https://broker.example/openai/v1/chat", URL + "/", "http://broker.example/openai/v1/chat/completions",
        "https://evil.example/openai/v1/chat/completions",
        "https://broker.example:8443/openai/v1/chat/completions",
        "https://broker.example.evil/openai/v1/chat/completions",
        "https://user@broker.example/openai/v1/chat/completions",
        "https://broker.example@evil.example/openai/v1/chat/completions",
        "https://broker.example:x@evil.example/openai/v1/chat/completions",
        "//broker.example/openai/v1/chat/completions", "/openai/v1/chat/completions",
        "https://broker.example/OPENAI/v1/chat/completions",
        "https://broker.example/openai%2fv1/chat/completions", "https://broker.example//openai/v1/chat/completions",
        " " + URL, URL + "\n", URL + "%",
        "https://broker.example/openai/v1/chat/completions;x", "https://broker.example\\@evil.example/",
        "https://[::1/", "https://broker.example:99999/x",
        "https://bröker.example/openai/v1/chat/completions", "ftp://broker.example/openai/v1/chat/completions",
        "https:broker.example/openai/v1/chat/completions",
    ],
)  # fmt: skip
def test_another_url_is_refused(htu: str) -> None:
    """Another scheme, host, port, path or spelling that means something else, credentials, and what is no URL."""
    with pytest.raises(InvalidDpopProof):
        verify(made(htu=htu))


def test_a_strange_request_path_is_a_refusal_and_no_crash() -> None:
    """The expected URL holds the caller's path: where it cannot be normalised, only the very same text passes."""
    strange = URL + "/%zz"
    assert verify(made(htu=strange), url=strange).jti == "id-1"
    with pytest.raises(InvalidDpopProof):
        verify(made(htu=URL), url=strange)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://A.example", "http://a.example/"), ("http://a.example:80/", "http://a.example/"),
        ("https://a.example:80/", "https://a.example:80/"),
        ("https://[::1]:443/%7Ea/%c3%a9/%2F", "https://[::1]/~a/%C3%A9/%2F"),
        ("http://127.0.0.1:8420/token", "http://127.0.0.1:8420/token"),
        ("https://a.example/a/b/..", "https://a.example/a/"), ("https://a.example/a/.", "https://a.example/a/"),
        ("https://a.example/a/%2e%2e/b", "https://a.example/b"),
        ("https://a.example/..", "https://a.example/"), ("https://a.example/a//b/", "https://a.example/a//b/"),
        ("https://a.example?x", "https://a.example/"),
    ],
)  # fmt: skip
def test_normal_urls(url: str, normal: str) -> None:
    """The form that is compared, which normalises to itself."""
    assert dpop.normal_url(url) == dpop.normal_url(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.example/", "a.example/", "//a.example/", "https:///a", "https://user@a.example/",
        "https://u:p@a.example/", "https://a.example:x@evil.example/",
        "https://ä.example/", "https://a.example/ä", "https://a.example/\\b", "https://a.example/a b", "https://a.example/\t",
        "https://a example/", "https://%61.example/", "https://[::1", "https://[::1%25eth0]/", "https://a.example:x/",
        "",
    ],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    """Another scheme, no host, credentials, and characters that parsers disagree about."""
    with pytest.raises(Malformed):
        dpop.normal_url(url)


def test_the_length_of_urls_is_bounded() -> None:
    """2048 characters are looked at and no more."""
    longest = "https://a.example/".ljust(2048, "a")
    assert dpop.normal_url(longest) == longest
    with pytest.raises(Malformed):
        dpop.normal_url(longest + "a")


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": None}, {"jwk": "x"}, {"jwk": []}, {"jwk": {}}, {"jwk": {**JWK, "d": "AA"}},
        {"jwk": {"kty": "oct", "k": "AA"}}, {"jwk": {**JWK, "use": "enc"}},
        {"jwk": {**JWK, "alg": "ES384"}}, {"jwk": jwk.to_members(p256("other").public_key())},
        {"jwk": jwk.to_members(p384().public_key())},
        {"jwk": jwk.to_members(ed25519().public_key())}, {"jwk": jwk.to_members(rsa().public_key())},
        {"jwk": {**JWK, "x": JWK["y"]}},
    ],
)  # fmt: skip
def test_the_key_in_the_header_must_be_the_signers_public_one(header: dict[str, object]) -> None:
    """§4.3 steps 4 to 7: missing, private, symmetric, for something else, or not the one that signed."""
    with pytest.raises(InvalidDpopProof):
        verify(made(header))


def test_rsa_proofs_are_not_taken() -> None:
    """Asymmetric, and still not among the two algorithms that proofs may have here."""
    header = {"typ": "dpop+jwt", "alg": "RS256", "jwk": jwk.to_members(rsa().public_key())}
    with pytest.raises(InvalidDpopProof):
        verify(token(header, claims(), rsa()))


def test_only_keys_that_signed_are_remembered() -> None:
    """A bad signature leaves no trace in memory, so strangers cannot fill it; a good key is parsed once."""
    key = p256("remembered")
    good = dpop.prove(key, method="POST", url=URL, now=NOW, jti="1")
    header_text = good.partition(".")[0].encode()
    with pytest.raises(InvalidDpopProof):
        verify(good[:-4] + "AAAA")
    assert header_text not in dpop._known
    first = verify(good)
    assert dpop._known[header_text] is first.public
    assert verify(dpop.prove(key, method="POST", url=URL, now=NOW, jti="2")).public is first.public


def test_a_remembered_key_skips_no_check() -> None:
    """After a header is known, a bad signature, time, method, URL or token is refused as before."""
    good = dpop.prove(p256("known"), method="POST", url=URL, now=NOW, jti="1")
    verify(good)
    with pytest.raises(InvalidDpopProof):
        verify(good[:-4] + "AAAA")
    for changed in ({"now": NOW + 61}, {"method": "GET"}, {"url": URL + "/x"}, {"access_token": "t"}):
        with pytest.raises(InvalidDpopProof):
            verify(good, **changed)


def test_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest key makes room; a header too long to keep is verified every time."""
    monkeypatch.setattr(dpop, "_MAX_KNOWN", 3)
    monkeypatch.setattr(dpop, "_known", {})
    for number in range(5):
        verify(dpop.prove(p256(f"key {number}"), method="POST", url=URL, now=NOW, jti="1"))
    assert len(dpop._known) == 3
    for length, kept in ((512, True), (514, False)):
        proof = next(
            made({"more": "m" * n}) for n in range(400) if len(made({"more": "m" * n}).partition(".")[0]) == length
        )
        verify(proof)
        assert (proof.partition(".")[0].encode() in dpop._known) is kept
    assert len(dpop._known) == 3
