"""The known attacks on signed tokens: each makes what an attacker would send from a token that the verifier takes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.formats import jwk
from tests.formats.forge import NOW, ed25519, from_text, p256, p384, part, raw_signature, resigned, rsa, token
from tests.formats.verifiers import JWK, VERIFIERS, Verifier

ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
ATTACKS: dict[str, Callable[[Verifier], Iterable[str]]] = {}


def attack(make: Callable[[Verifier], Iterable[str]]) -> Callable[[Verifier], Iterable[str]]:
    """Puts an attack on the list, under its function's name."""
    ATTACKS[make.__name__] = make
    return make


@attack
def alg_none(v: Verifier) -> Iterable[str]:
    """RFC 8725 §2.1: "none" in any case, without a signature, with an empty one, and with a left-over one."""
    for alg in ("none", "None", "NONE", "nOnE", " none", "none\x00"):
        honest = v.with_header(alg=alg)
        yield from (honest, resigned(honest, b""), honest.rpartition(".")[0])


@attack
def alg_missing_or_strange(v: Verifier) -> Iterable[str]:
    """No algorithm, one that is no text, in another case, or that nobody knows."""
    header = {name: value for name, value in v.header.items() if name != "alg"}
    yield v.token(header)
    for alg in (
        None,
        "",
        1,
        True,
        ["ES256"],
        {"ES256": 1},
        "es256",
        "ES256 ",
        "ES256K",
        "ES521",
        "A128KW",
        "dir",
        "HS256",
    ):
        yield v.with_header(alg=alg)


@attack
def public_key_as_secret(v: Verifier) -> Iterable[str]:
    """RFC 8725 §2.1: HMAC keyed with the public key in every form that a verifier might hold it."""
    public = p256().public_key()
    info = PublicFormat.SubjectPublicKeyInfo
    secrets = [
        public.public_bytes(Encoding.PEM, info), public.public_bytes(Encoding.PEM, info).strip(),
        public.public_bytes(Encoding.DER, info),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint), json.dumps(JWK).encode(), JWK["x"].encode(),
        b"",
    ]  # fmt: skip
    for alg, digest in (
        ("HS256", "sha256"),
        ("HS384", "sha384"),
        ("HS512", "sha512"),
        ("ES256", "sha256"),
        ("RS256", "sha256"),
    ):
        signing_input = v.with_header(alg=alg).rpartition(".")[0]
        for secret in secrets:
            yield f"{signing_input}.{part(hmac.new(secret, signing_input.encode(), digest).digest())}"


@attack
def another_algorithm_than_the_keys(v: Verifier) -> Iterable[str]:
    """An asymmetric algorithm that is not the key's, signed by a key that the attacker holds."""
    for alg, key in (("RS256", rsa()), ("PS256", rsa()), ("EdDSA", ed25519("attacker")), ("ES384", p384())):
        yield v.with_header(alg=alg, key=key)


@attack
def wrong_curve(v: Verifier) -> Iterable[str]:
    """P-384 called ES256: by a key that the verifier knows, with its own signature and one cut to length."""
    for kid in ("p384", "key-1"):
        changed = {"kid": kid} if v.name != "dpop" else {"jwk": jwk.to_members(p384().public_key())}
        text = v.with_header(key=p384(), **changed)
        signature = raw_signature(text.rpartition(".")[0], p384())
        yield from (text, resigned(text, signature[:64]), resigned(text, signature[:32] + signature[48:80]))


@attack
def embedded_keys(v: Verifier) -> Iterable[str]:
    """RFC 8725 §3.10: the attacker's key, or its address, in the header of a token that the attacker signed."""
    key = p256("attacker")
    mine = {**jwk.to_members(key.public_key()), "kid": "key-1"}
    certificate = base64.b64encode(b"certificate").decode()
    addresses: list[dict[str, Any]] = [
        {"jku": "https://evil.example/jwks"}, {"jku": "https://b.example/jwks"}, {"x5u": "https://evil.example/c"},
        {"x5c": [certificate]},
        {"jku": None}, {"x5c": []},
    ]  # fmt: skip
    for members in addresses:
        yield v.with_header(**members)
        yield v.with_header(key=key, **members)
    if v.name != "dpop":
        yield from (v.with_header(jwk=mine, key=key), v.with_header(jwk=JWK), v.with_header(jwk=None))


@attack
def embedded_keys_that_prove_nothing(v: Verifier) -> Iterable[str]:
    """In a proof: a private or symmetric key, a key of small order, another's key, and one with the wrong size."""
    if v.name != "dpop":
        return
    neutral = b"\x01" + bytes(31)
    small = v.with_header(alg="EdDSA", jwk={"kty": "OKP", "crv": "Ed25519", "x": part(neutral)})
    yield resigned(small, neutral + bytes(32))
    yield v.with_header(jwk={**JWK, "d": part(bytes(31) + b"\x01")})
    secret = part(b"k" * 32)
    symmetric = v.with_header(alg="HS256", jwk={"kty": "oct", "k": secret}).rpartition(".")[0]
    yield f"{symmetric}.{part(hmac.new(b'k' * 32, symmetric.encode(), 'sha256').digest())}"
    yield v.with_header(key=p256("attacker"))
    yield v.with_header(jwk={**JWK, "x": JWK["x"] + "AA"})
    yield v.with_header(jwk={**JWK, "crv": "P-384"})


@attack
def kid_as_path_or_query(v: Verifier) -> Iterable[str]:
    """A kid that would open a file or a table elsewhere; signed by the attacker, and with an empty secret."""
    if v.name == "dpop":
        return
    for kid in (
        "../../../../dev/null",
        "/proc/sys/kernel/random/uuid",
        "x' UNION SELECT 'secret' --",
        "key-1' OR '1'='1",
        "key-1;id",
        "|id",
        "http://evil.example",
    ):
        yield v.with_header(kid=kid)
        yield v.with_header(kid=kid, key=p256("attacker"))
        signing_input = v.with_header(kid=kid, alg="HS256").rpartition(".")[0]
        yield f"{signing_input}.{part(hmac.new(b'', signing_input.encode(), 'sha256').digest())}"


@attack
def kid_of_another_shape(v: Verifier) -> Iterable[str]:
    """A kid that is no short printable text is never looked up."""
    for kid in (
        None,
        1,
        True,
        ["key-1"],
        {"key-1": 1},
        "",
        "k" * 257,
        "key-1\x00",
        "key-1\n",
        "ключ",
        "__class__" * 40,
    ):
        yield v.with_header(kid=kid)


@attack
def kid_of_another_key(v: Verifier) -> Iterable[str]:
    """A kid of a key that did not sign."""
    if v.name != "dpop":
        yield from (
            v.with_header(kid="ed"),
            v.with_header(kid="p384"),
            v.with_header(kid="KEY-1"),
            v.with_header(key=p256("attacker")),
        )


@attack
def members_named_twice(v: Verifier) -> Iterable[str]:
    """RFC 7515 §4, RFC 7519 §4: two readings of one signed text, in header, payload and below."""
    header, payload = json.dumps(v.header), json.dumps(v.payload)
    for name, value in [
        ("alg", '"none"'),
        ("alg", '"ES256"'),
        ("typ", json.dumps(v.header["typ"])),
        ("\\u0061lg", '"ES256"'),
    ]:
        yield from_text(f'{header[:-1]},"{name}":{value}}}', payload)
        yield from_text(f'{{"{name}":{value},{header[1:]}', payload)
    for name, claim in v.payload.items():
        yield from_text(header, f'{payload[:-1]},"{name}":{json.dumps(claim)}}}')
        yield from_text(header, f'{{"{name}":"other",{payload[1:]}')
    yield from_text(header, f'{payload[:-1]},"more":{{"a":1,"a":1}}}}')


@attack
def critical_extensions(v: Verifier) -> Iterable[str]:
    """RFC 7515 §4.1.11, RFC 7797: extensions that must be understood, and the one that changes what is signed."""
    for crit in (["exp"], ["b64"], ["http://evil.example/x"], [], "exp", None):
        yield v.with_header(crit=crit)
    yield from (v.with_header(crit=["b64"], b64=False), v.with_header(b64=False), v.with_header(b64=True))


@attack
def compression(v: Verifier) -> Iterable[str]:
    """RFC 8725 §3.6: nothing is unpacked."""
    yield from (v.with_header(zip="DEF"), v.with_header(zip=None))


@attack
def other_spellings_of_one_token(v: Verifier) -> Iterable[str]:
    """Padding, trailing bits, white space, line breaks and the plain alphabet: one token, one spelling."""
    honest = v.token()
    parts = honest.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for at, text in enumerate(parts):
        others = [
            text + "=",
            text + "==",
            text + " ",
            " " + text,
            text[:5] + "\n" + text[5:],
            text[:5] + "\r\n" + text[5:],
            text + "\x00",
            text + "A",
            "%41" + text,
        ]
        if len(text) % 4:
            others.append(text[:-1] + alphabet[alphabet.index(text[-1]) + 1])
        if "-" in text or "_" in text:
            others.append(text.replace("-", "+").replace("_", "/"))
        for other in others:
            yield ".".join([*parts[:at], other, *parts[at + 1 :]])


@attack
def wrong_type(v: Verifier) -> Iterable[str]:
    """RFC 8725 §3.11: the types of the other verifiers' tokens, and near misses."""
    for typ in ("at+jwt", "dpop+jwt", "JWT", "logout+jwt", "", " ", None, 1, ["at+jwt"], "jwt+at", "at+jwt;x"):
        if not isinstance(typ, str) or typ.lower() != str(v.header["typ"]).lower():
            yield v.with_header(typ=typ)
    if v.name != "evidence":
        yield v.token({name: value for name, value in v.header.items() if name != "typ"})


@attack
def a_token_of_another_verifier(v: Verifier) -> Iterable[str]:
    """Honest tokens, each shown where another kind is asked for."""
    for other in VERIFIERS:
        if other is not v:
            yield other.token()
            yield token(other.header, {**v.payload, **other.payload}, p256())


@attack
def strange_signatures(v: Verifier) -> Iterable[str]:
    """CVE-2022-21449 and its kin: zeros, the group's order, DER, cut, padded, swapped and somebody else's."""
    honest = v.token()
    signing_input = honest.rpartition(".")[0]
    good = raw_signature(signing_input, p256())
    r, s, order = good[:32], good[32:], ORDER.to_bytes(32, "big")
    one = bytes(31) + b"\x01"
    r_number, s_number = int.from_bytes(r, "big"), int.from_bytes(s, "big")
    for signature in (
        b"", bytes(64), bytes(32) + s, r + bytes(32), order + s, r + order, order + order, one + one, b"\xff" * 64,
        s + r, good[:-1], good[1:], good + b"\x00",
        b"\x00" + good, r + bytes(1) + s, bytes(1) + r + bytes(1) + s, good * 2,
        encode_dss_signature(r_number, s_number),
        raw_signature(signing_input + "x", p256()),
        raw_signature(signing_input, p256("attacker")), hashlib.sha256(signing_input.encode()).digest() * 2, bytes(96),
        bytes(132),
    ):  # fmt: skip
        yield resigned(honest, signature)


@attack
def every_altered_character(v: Verifier) -> Iterable[str]:
    """One character changed anywhere in header, payload or signature."""
    honest = v.token()
    for at in range(0, len(honest), 3):
        if honest[at] != ".":
            yield honest[:at] + ("A" if honest[at] != "A" else "B") + honest[at + 1 :]


@attack
def high_bytes(v: Verifier) -> Iterable[str]:
    """Characters beyond ASCII around and inside, and a payload that is not UTF-8."""
    honest = v.token()
    yield from (
        "\ufeff" + honest,
        honest + "\u200b",
        honest.replace(".", "\uff0e", 1),
        honest[:9] + "é" + honest[10:],
        honest[:-1] + "\udc80",
        "\x00" + honest,
    )
    yield token(v.header, json.dumps(v.payload).encode() + b"\xff", p256())
    yield token(v.header, json.dumps(v.payload).encode("utf-16"), p256())
    yield token(v.header, b"\xef\xbb\xbf" + json.dumps(v.payload).encode(), p256())


@attack
def other_shapes(v: Verifier) -> Iterable[str]:
    """Too few and too many parts (five would be encrypted), empty ones, the JSON serialisation, and no token at all."""
    honest = v.token()
    first, middle, last = honest.split(".")
    yield from (
        "",
        ".",
        "..",
        "...",
        "....",
        first,
        f"{first}.{middle}",
        f"{first}..{last}",
        f".{middle}.{last}",
        f"{first}.{middle}.",
        f"{honest}.",
        f".{honest}",
    )
    yield from (
        f"{honest}.{last}",
        f"{first}.{middle}.{last}.{last}.{last}",
        f"DPoP {honest}",
        f"{honest},{honest}",
        f'"{honest}"',
    )
    yield json.dumps({"protected": first, "payload": middle, "signature": last})
    yield json.dumps({"payload": middle, "signatures": [{"protected": first, "signature": last}]})


@attack
def header_or_payload_that_is_no_object(v: Verifier) -> Iterable[str]:
    """Signed by the honest key all the same."""
    for value in (
        [],
        [v.payload],
        "text",
        1,
        b"null",
        True,
        b"",
        b"{",
        b'{"a":1}{"a":1}',
        b"NaN",
        b'{"exp":NaN}',
        b'{"exp":1e999}',
    ):
        yield v.token(payload=value)
        yield v.token(header=value)


@attack
def nested_tokens(v: Verifier) -> Iterable[str]:
    """A token as the payload of another (RFC 7519 §5.2), and an object too deep to be honest."""
    yield token({**v.header, "cty": "JWT"}, v.token().encode(), p256())
    yield token(v.header, json.dumps(v.token()).encode(), p256())
    for depth in (32, 400, 4000):
        yield token(v.header, b"[" * depth + b"]" * depth, p256())
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        yield token(v.header, json.dumps(v.payload).encode()[:-1] + b',"deep":' + deep + b"}", p256())
        yield token(json.dumps(v.header).encode()[:-1] + b',"deep":' + deep + b"}", v.payload, p256())


@attack
def oversized_tokens(v: Verifier) -> Iterable[str]:
    """Longer than any verifier looks at: in the header, the payload and the signature."""
    yield v.with_header(more="a" * 20_000)
    yield v.token(payload={**v.payload, "more": "a" * 20_000})
    yield resigned(v.token(), bytes(20_000))
    yield "." * 100_000
    yield "a" * 10_000_000


@attack
def times_at_both_ends(v: Verifier) -> Iterable[str]:
    """From the future, long dead, endless, backwards, and times that are none."""
    for changed in (
        {"iat": NOW + 3600}, {"exp": NOW - 3600, "iat": NOW - 7200}, {"nbf": NOW + 3600}, {"iat": NOW * 1000},
        {"exp": 0}, {"exp": -1}, {"iat": 1e308},
        {"exp": "never"}, {"exp": None}, {"exp": True}, {"nbf": "x"}, {"iat": None}, {"iat": [NOW]}, {"exp": 10**30},
    ):  # fmt: skip
        yield v.token(payload={**v.payload, **changed})
