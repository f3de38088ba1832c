"""Checks of claims that every kind of token shares. Time is an argument.

Source: RFC 7519 §4.1, RFC 8725 §3.8 to §3.10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from broker.errors import Malformed, VerificationFailed

_END_OF_TIME = 253_402_300_800
"""The first second of the year 10000; no calendar of ours goes further."""

_MAX_AUDIENCES = 64


def check_times(
    claims: Mapping[str, object],
    *,
    now: float,
    leeway_s: float,
    max_age_s: float | None = None,
    require: Sequence[str] = ("exp",),
) -> None:
    """Checks `exp`, `nbf` and `iat`, each wherever it is present. Fails closed.

    RFC 7519 §4.1.4: "on or after" `exp` a token MUST NOT be accepted, so it is dead at that very second.

    Args:
        claims: a verified claims set.
        now: seconds since the epoch.
        leeway_s: how far the issuer's clock may be from ours, at both ends.
        max_age_s: how long ago `iat` may lie, without leeway; makes `iat` required.
        require: which of the three must be present.

    Raises:
        Malformed: a required one is missing, or one is not a time.
        VerificationFailed: ended, not begun, issued in the future, or too old; its reason says which.
    """
    for name in require:
        if name not in claims:
            raise Malformed(f'The token must carry "{name}".', reason="claim_missing")
    if "exp" in claims and now >= time_of(claims, "exp") + leeway_s:
        raise VerificationFailed("The token has expired: get a new one.", reason="expired")
    if "nbf" in claims and now < time_of(claims, "nbf") - leeway_s:
        raise VerificationFailed("The token is not valid yet: check both clocks.", reason="not_yet_valid")
    if "iat" not in claims and max_age_s is None:
        return
    issued = time_of(claims, "iat")
    if issued > now + leeway_s:
        raise VerificationFailed("The token was issued in the future: check both clocks.", reason="issued_in_future")
    if max_age_s is not None and now - issued > max_age_s:
        raise VerificationFailed("The token is too old: get a new one.", reason="too_old")


def time_of(claims: Mapping[str, object], name: str) -> float:
    """A NumericDate (RFC 7519 §2), in seconds since the epoch.

    Raises:
        Malformed: missing, not a number (true and false are none), negative, NaN, or beyond the year 9999.
    """
    value = claims.get(name)
    # NaN fails the comparison, as it fails every other.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _END_OF_TIME:
        raise Malformed(f'"{name}" must be a time in seconds since 1970.', reason="claim_missing")
    return value


def text(claims: Mapping[str, object], name: str, *, max_chars: int = 1024) -> str:
    """A required claim that is text: printable, not empty.

    Raises:
        Malformed: missing, not text, empty, too long, or with control characters.
    """
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= max_chars or not value.isprintable():
        raise Malformed(f'"{name}" must be printable text of 1 to {max_chars} characters.', reason="claim_missing")
    return value


def audiences(claims: Mapping[str, object]) -> tuple[str, ...]:
    """The required claim `aud`: one text or an array of them (RFC 7519 §4.1.3).

    Raises:
        Malformed: missing, empty, not text, or more than 64.
    """
    value = claims.get("aud")
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_AUDIENCES:
        raise Malformed('"aud" must name whom the token is for.', reason="claim_missing")
    if not all(isinstance(item, str) and item for item in listed):
        raise Malformed('"aud" must be a text or an array of texts.', reason="claim_missing")
    return tuple(listed)
