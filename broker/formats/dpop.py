"""Proof of possession: a fresh signature over one request, by the key that a token is bound to.

Source: RFC 9449 (§4.2 the proof, §4.3 its checks), RFC 3986 §6.2 for comparing `htu`.
Replay (`jti`) and server nonces need a memory and are checked by the caller on the `Proof`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from urllib.parse import urlsplit

from broker.errors import InvalidDpopProof, Malformed, VerificationFailed
from broker.formats import base64url, claims, jwk, jws
from broker.formats.jwk import PrivateKey, PublicKey

TYP = "dpop+jwt"
ALGORITHMS = frozenset({"ES256", "EdDSA"})

_MAX_PROOF_BYTES = 8192
_MAX_URL = 2048
_MAX_KNOWN = 4096
_MAX_KNOWN_HEADER = 512
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]", re.ASCII)

# Header text -> its key. Only headers whose signature verified get in, so a stranger cannot fill it with junk
# keys.
_known: dict[bytes, PublicKey] = {}
_known_lock = Lock()


@dataclass(frozen=True, slots=True)
class Proof:
    """A verified proof.

    Attributes:
        jkt: the key's RFC 7638 thumbprint.
        jti: the proof's own id, 1 to 256 characters; the caller lets each pass once per key.
        iat: when the caller says it was made, whole seconds since the epoch; the proof can be shown until
            `iat + window_s`, that second included.
        nonce: the server nonce it carries, unchecked.
        public: the key itself.
    """

    jkt: str
    jti: str
    iat: int
    nonce: str | None
    public: PublicKey


def prove(
    key: PrivateKey,
    *,
    method: str,
    url: str,
    now: float,
    jti: str,
    access_token: str | None = None,
    nonce: str | None = None,
) -> str:
    """Makes a proof for one request.

    Args:
        key: P-256 or Ed25519.
        method: as sent, "POST".
        url: the absolute URL as sent; its query and fragment are left out of the proof.
        now: seconds since the epoch.
        jti: fresh and unpredictable for each proof.
        access_token: the token sent along, if any.
        nonce: the last `DPoP-Nonce` from this server, if any.
    """
    header = {"typ": TYP, "alg": jwk.algorithm_of(key), "jwk": jwk.to_members(key.public_key())}
    payload: dict[str, object] = {
        "jti": jti,
        "htm": method,
        "htu": url.partition("#")[0].partition("?")[0],
        "iat": int(now),
    }
    if access_token is not None:
        payload["ath"] = _digest(access_token)
    if nonce is not None:
        payload["nonce"] = nonce
    return jws.sign(header, payload, key)


def verify(
    token: str,
    *,
    method: str,
    url: str,
    now: float,
    window_s: int = 60,
    future_s: int = 5,
    access_token: str | None,
) -> Proof:
    """Checks a proof against the request it came with (RFC 9449 §4.3). Fails closed.

    Args:
        token: the value of the one `DPoP` header.
        method: the request's method.
        url: the expected absolute URL: configured origin and the path, never from a Host header.
        now: seconds since the epoch.
        window_s: how old `iat` may be; that second included.
        future_s: how far in the future `iat` may be; that second included.
        access_token: the token the request carries; None at the token endpoint. With it `ath` is required.

    Raises:
        InvalidDpopProof: any check failed.
    """
    try:
        u = jws.unverified(token, max_bytes=_MAX_PROOF_BYTES, allow_jwk=True)
        header_text = u.signing_input.partition(b".")[0]
        known = _known.get(header_text)
        key = known if known is not None else _embedded_key(u.header)
        payload = jws.claims(jws.verify(u, key, algorithms=ALGORITHMS, typ=TYP))
        if known is None and len(header_text) <= _MAX_KNOWN_HEADER:
            _remember(header_text, key)
        claims.check_times(payload, now=now, leeway_s=future_s, require=("iat",))
        proof = Proof(key.thumbprint, claims.text(payload, "jti", max_chars=256), _iat(payload), _nonce(payload), key)
    except (Malformed, VerificationFailed) as error:
        raise InvalidDpopProof(f"The DPoP proof is not valid. {error.detail}", reason=error.reason) from error
    if now - proof.iat > window_s:
        raise InvalidDpopProof(f"The DPoP proof is older than {window_s} seconds: make one per request.")
    if payload.get("htm") != method:
        raise InvalidDpopProof("The DPoP proof's htm must be the method of the request it is sent with.")
    htu = payload.get("htu")
    if not isinstance(htu, str) or (htu != url and not _same_url(htu, url)):
        raise InvalidDpopProof("The DPoP proof's htu must be the broker's public address and the path of the request.")
    if access_token is not None:
        ath = payload.get("ath")
        # Compared as bytes: compare_digest takes no text beyond ASCII.
        if not isinstance(ath, str) or not hmac.compare_digest(ath.encode(), _digest(access_token).encode()):
            raise InvalidDpopProof("The DPoP proof's ath must be the SHA-256 of the access token sent along.")
    return proof


def normal_url(url: str) -> str:
    """An http or https URL in the form that comparison uses, without query and fragment.

    RFC 9449 §4.3 asks for syntax- and scheme-based normalisation (RFC 3986 §6.2.2, §6.2.3): case of scheme,
    host and escapes, needless escapes, dot segments, default port, empty path.

    Raises:
        Malformed: not an absolute http or https URL, or one with credentials, spaces or characters beyond
            ASCII.
    """
    if len(url) > _MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise Malformed("The URL must be printable ASCII without spaces.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Malformed("The URL cannot be read.") from error
    authority = parts.netloc.lower()
    scheme = parts.scheme
    host, colon, _ = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        host = authority
    if "@" in authority or scheme not in _DEFAULT_PORTS or _HOST.fullmatch(host) is None:
        raise Malformed("The URL must be absolute, http or https, without credentials.")
    shown = "" if port is None or port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{shown}{_normal_path(parts.path)}"


def _same_url(htu: str, url: str) -> bool:
    try:
        return normal_url(htu) == normal_url(url)
    except Malformed:
        return False


def _normal_path(path: str) -> str:
    path = _ESCAPE.sub(_normal_escape, path)
    segments: list[str] = []
    parts = path.split("/")[1:]
    for part in parts:
        if part == "..":
            del segments[-1:]
        elif part != ".":
            segments.append(part)
    # RFC 3986 §5.2.4: a path that ends in a dot segment names the folder, with its slash.
    if parts and parts[-1] in (".", ".."):
        segments.append("")
    return "/" + "/".join(segments)


def _normal_escape(match: re.Match[str]) -> str:
    digits = match.group(1)
    if digits is None:
        raise Malformed("The URL holds a percent sign that escapes nothing.")
    value = int(digits, 16)
    return chr(value) if value in _UNRESERVED else f"%{digits.upper()}"


def _embedded_key(header: Mapping[str, object]) -> PublicKey:
    members = header.get("jwk")
    if not isinstance(members, dict):
        raise Malformed("Its header must carry the public key as jwk.")
    return jwk.parse_public(members)


def _remember(header_text: bytes, key: PublicKey) -> None:
    with _known_lock:
        if len(_known) >= _MAX_KNOWN:
            del _known[next(iter(_known))]
        _known[header_text] = key


def _iat(payload: Mapping[str, object]) -> int:
    return int(claims.time_of(payload, "iat"))


def _nonce(payload: Mapping[str, object]) -> str | None:
    return claims.text(payload, "nonce", max_chars=256) if "nonce" in payload else None


def _digest(access_token: str) -> str:
    return base64url.encode(hashlib.sha256(access_token.encode("utf-8")).digest())
