"""A request at the token endpoint, from its raw form to a frozen value (RFC 6749 §3.2, RFC 8693 §2.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_plus

from broker.errors import InvalidRequest, UnsupportedGrantType

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  a grant's name
CLIENT_CREDENTIALS = "client_credentials"
JWT_BEARER_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ACCESS_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  a type's name
SUBJECT_TOKEN_TYPES = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
MAX_FORM_BYTES = 64 * 1024
_REPEATABLE = frozenset({"resource", "audience"})
_MAX_FIELDS = 40


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What was asked of `/token`; nothing in it is verified yet.

    `resource` holds the values of `resource` and `audience` together: both name the target (RFC 8693 §2.1).
    """

    grant_type: str
    subject_token: str = ""
    subject_token_type: str = ""
    requested_token_type: str = ""
    resource: tuple[str, ...] = ()
    scope: str = ""
    client_id: str = ""
    client_assertion: str = ""
    proofs: tuple[str, ...] = ()
    source: str = ""
    request_id: str = ""


def parse(body: bytes, *, proofs: Sequence[str], source: str, request_id: str) -> TokenRequest:
    """Reads a form.

    Parameters without a value are taken as absent; unknown ones are ignored; a repeated one is refused, except
    `resource` and `audience` (RFC 6749 §3.2, RFC 8707 §2).

    Args:
        body: `application/x-www-form-urlencoded`.
        proofs: the values of every DPoP header field.
        source: the peer's address.
        request_id: names the request in records.

    Raises:
        InvalidRequest, UnsupportedGrantType: the text names the parameter.
    """
    try:
        pairs = list(_pairs(body.decode("ascii")))
    except ValueError as error:
        raise InvalidRequest(
            "The body must be application/x-www-form-urlencoded with at most 40 parameters."
        ) from error
    fields: dict[str, str] = {}
    targets: list[str] = []
    for name, value in pairs:
        if name in _REPEATABLE:
            if value:
                targets.append(value)
        elif name in fields:
            raise InvalidRequest(f"The parameter {_shown(name)} was given twice. Send it once.")
        else:
            fields[name] = value
    grant = fields.get("grant_type", "")
    if not grant:
        raise InvalidRequest("The parameter grant_type is missing.")
    if grant not in (TOKEN_EXCHANGE, CLIENT_CREDENTIALS):
        raise UnsupportedGrantType(f"This grant is not offered. Use {TOKEN_EXCHANGE} or {CLIENT_CREDENTIALS}.")
    if fields.get("client_secret"):
        raise InvalidRequest("Shared secrets are not accepted. Authenticate with private_key_jwt.")
    if fields.get("actor_token") or fields.get("actor_token_type"):
        raise InvalidRequest("actor_token is not taken yet: an agent asks for itself with its own evidence.")
    assertion = fields.get("client_assertion", "")
    if assertion and fields.get("client_assertion_type") != JWT_BEARER_ASSERTION:
        raise InvalidRequest(f"client_assertion needs client_assertion_type={JWT_BEARER_ASSERTION}.")
    if grant == TOKEN_EXCHANGE:
        _check_exchange(fields)
    if fields.get("requested_token_type", ACCESS_TOKEN_TYPE) not in ("", ACCESS_TOKEN_TYPE):
        raise InvalidRequest(f"Only {ACCESS_TOKEN_TYPE} can be requested.")
    return TokenRequest(
        grant_type=grant,
        subject_token=fields.get("subject_token", ""),
        subject_token_type=fields.get("subject_token_type", ""),
        requested_token_type=fields.get("requested_token_type", ""),
        resource=tuple(dict.fromkeys(targets)),
        scope=fields.get("scope", ""),
        client_id=fields.get("client_id", ""),
        client_assertion=assertion,
        proofs=tuple(proofs),
        source=source,
        request_id=request_id,
    )


def _pairs(form: str) -> Iterator[tuple[str, str]]:
    """The names and values of a form, as `urllib.parse.parse_qsl` reads it strictly, at a fifth of its cost.

    Raises:
        ValueError: a part without "=", text that is no UTF-8, or too many parts.
    """
    if not form:
        return
    parts = form.split("&", _MAX_FIELDS)
    if len(parts) > _MAX_FIELDS:
        raise ValueError("too many fields")
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("a field without a value")
        yield _plain(name), _plain(value)


def _plain(text: str) -> str:
    return unquote_plus(text, errors="strict") if "%" in text or "+" in text else text


def _check_exchange(fields: dict[str, str]) -> None:
    if not fields.get("subject_token"):
        raise InvalidRequest("The parameter subject_token is missing: send the evidence in it.")
    if fields.get("subject_token_type") not in SUBJECT_TOKEN_TYPES:
        raise InvalidRequest(f"subject_token_type must be one of {', '.join(SUBJECT_TOKEN_TYPES)}.")


def _shown(name: str) -> str:
    """A caller's parameter name, fit for an error text (RFC 6749 §5.2 allows printable ASCII only)."""
    return "".join(c for c in name[:40] if c.isascii() and c.isprintable() and c not in '"\\')
