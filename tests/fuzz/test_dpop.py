"""DPoP proofs, and the comparison of their URLs."""

from __future__ import annotations

import hashlib

from hypothesis import assume, given
from hypothesis import strategies as st

from broker.formats import base64url, dpop, jwk
from broker.formats.dpop import Proof
from tests.formats.forge import NOW, ed25519, p256
from tests.formats.verifiers import VERIFIERS
from tests.fuzz.mutations import damaged_text
from tests.fuzz.outcome import effort, taken
from tests.fuzz.tokens import read, tokens

_, DPOP, _ = VERIFIERS

SEGMENTS = st.sampled_from(
    [
        "a",
        "A",
        ".",
        "..",
        "",
        "%41",
        "%2e",
        "%2E%2e",
        "%2f",
        "%25",
        "%7E",
        "~",
        ";p=1",
        "a:b",
        "@",
        "%C3%A9",
        "%c3%a9",
        "%",
        "%4",
    ]
)
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda segments: "".join(f"/{segment}" for segment in segments))
HOSTS = [
    "b.example",
    "B.EXAMPLE",
    "[::1]",
    "[FE80::1]",
    "127.0.0.1",
    "",
    "b_c",
    "b..",
    "ü.example",
    "[v1.x]",
    "[",
    "a]",
]
URLS = st.builds(
    lambda scheme, user, host, port, path, rest: f"{scheme}://{user}{host}{port}{path}{rest}",
    st.sampled_from(["https", "HTTPS", "http", "ftp", ""]) | st.just("https"),
    st.sampled_from(["", "", "", "u@", "u:p@"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["", "", ":443", ":80", ":8420", ":0443", ":", ":x", ":99999", ":-1"]),
    PATHS,
    st.sampled_from(["", "", "?", "?q=1", "#f", "?q#f", "?/../x"]),
)  # fmt: skip


@effort(200)
@given(tokens(DPOP))
def test_only_a_proof_of_its_own_key_for_this_request_is_taken(text: str) -> None:
    """A proof that passes carries the key that signed it, and says this method, this URL and about this time."""
    proof = taken(lambda: DPOP.verify(text))
    if proof is None:
        return
    assert isinstance(proof, Proof)
    header, payload = read(text)
    assert proof.jkt == jwk.parse_public(header["jwk"]).thumbprint
    assert header["typ"].lower().removeprefix("application/") == "dpop+jwt"
    assert header["alg"] in dpop.ALGORITHMS
    assert payload["htm"] == "POST"
    assert dpop.normal_url(payload["htu"]) == "https://b.example/token"
    assert NOW - 60 <= int(payload["iat"]) <= NOW + 5
    assert proof.jti == payload["jti"]


@effort(100)
@given(
    st.sampled_from([p256(), ed25519()]),
    st.sampled_from(["GET", "POST", "get", "DELETE"]),
    URLS,
    st.none() | st.text(max_size=20),
    st.none() | st.text("abc-_.~", min_size=1, max_size=20),
    st.data(),
)
def test_a_proof_fits_its_own_request_and_no_other(
    key: jwk.PrivateKey, method: str, url: str, token: str | None, nonce: str | None, data: st.DataObject
) -> None:
    """What was proved is taken; with another method, URL, token or time the same proof is refused."""
    assume(taken(lambda: dpop.normal_url(url)) is not None)
    shown = dpop.prove(key, method=method, url=url, now=NOW, jti="j", access_token=token, nonce=nonce)

    def verified(method: str = method, url: str = url, token: str | None = token, now: float = NOW) -> Proof:
        return dpop.verify(shown, method=method, url=url, now=now, access_token=token)

    proof = verified()
    assert (proof.jti, proof.nonce, proof.iat) == ("j", nonce, NOW)
    other = data.draw(URLS)
    same = taken(lambda: dpop.normal_url(other)) == dpop.normal_url(url)
    assert (taken(lambda: verified(url=other)) is not None) is same
    assert taken(lambda: verified(method=method + "x")) is None
    assert taken(lambda: verified(token=f"{token}x")) is None
    assert taken(lambda: verified(now=NOW + 61)) is None
    assert taken(lambda: verified(now=NOW - 6)) is None


@effort(150)
@given(URLS | st.text(max_size=30) | URLS.flatmap(damaged_text))
def test_a_normal_url_stays_as_it_is(url: str) -> None:
    """Normalising is done after once, and gives scheme, host and a path without dots, query and user."""
    normal = taken(lambda: dpop.normal_url(url))
    if normal is None:
        return
    assert dpop.normal_url(normal) == normal
    scheme, _, rest = normal.partition("://")
    host, _, path = rest.partition("/")
    assert scheme in ("http", "https")
    assert host
    assert host == host.lower()
    assert not {"?", "#", "@"} & set(host)
    assert not {"?", "#"} & set(path)
    assert not {".", ".."} & set(path.split("/"))


def _without_dots(path: str) -> str:
    """RFC 3986 §5.2.4, step by step as it stands there."""
    given, output = path, ""
    while given:
        if given.startswith("../"):
            given = given[3:]
        elif given.startswith(("./", "/./")):
            given = given[2:]
        elif given == "/.":
            given = "/"
        elif given.startswith("/../") or given == "/..":
            given = "/" + given[4:]
            output = output.rpartition("/")[0]
        elif given in (".", ".."):
            given = ""
        else:
            cut = given.find("/", 1)
            cut = len(given) if cut < 0 else cut
            output, given = output + given[:cut], given[cut:]
    return output


@effort(150)
@given(st.lists(st.sampled_from(["a", "b", ".", "..", "", "..."]), max_size=8))
def test_dot_segments_go_as_rfc_3986_says(segments: list[str]) -> None:
    """The path is what the RFC's own procedure makes of it."""
    path = "".join(f"/{segment}" for segment in segments)
    assert dpop.normal_url(f"https://h{path}") == f"https://h{_without_dots(path) or '/'}"


def test_the_digest_of_the_token_is_the_rfcs() -> None:
    """RFC 9449 §4.2: `ath` is the base64url of the SHA-256 of the token's ASCII."""
    proof = dpop.prove(p256(), method="GET", url="https://h/", now=NOW, jti="j", access_token="token")
    assert read(proof)[1]["ath"] == base64url.encode(hashlib.sha256(b"token").digest())
