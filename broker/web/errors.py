"""One table from the error tree to HTTP, and its three renderings: OAuth, problem documents, the provider's format.

What the table does not know is 500 with no detail outside and all of it in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from broker import errors
from broker.errors import BrokerError
from broker.gateway.calls import ProviderFailed
from broker.gateway.wire import Wire

log = logging.getLogger(__name__)

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Row:
    """How one class is shown.

    Args:
        status: the HTTP status.
        code: the OAuth error code (RFC 6749 §5.2 and successors), also the problem's last path segment.
        title: a short text that is the same for every occurrence.
    """

    status: int
    code: str
    title: str


_BAD = "The request is not acceptable"
TABLE: dict[type[BrokerError], Row] = {
    errors.Malformed: Row(400, "invalid_request", _BAD),
    errors.ConfigurationError: Row(500, "server_error", "The broker is not configured for this"),
    errors.StoreLocked: Row(503, "temporarily_unavailable", "The data folder is in use"),
    errors.Unavailable: Row(503, "temporarily_unavailable", "The broker cannot do this at the moment"),
    errors.NotFound: Row(404, "not_found", "There is no such thing"),
    errors.Conflict: Row(409, "conflict", "It changed meanwhile"),
    errors.PolicyInvalid: Row(422, "policy_invalid", "The policy set is not valid"),
    errors.CasesFailed: Row(422, "cases_failed", "The policy set fails its cases"),
    errors.ManifestInvalid: Row(422, "manifest_invalid", "The manifest is not valid"),
    errors.InvalidSignature: Row(400, "invalid_request", "The signature does not verify"),
    errors.EvidenceRejected: Row(400, "invalid_request", "The evidence was not accepted"),
    errors.ProofInvalid: Row(500, "server_error", "The log does not verify"),
    errors.OutboundRefused: Row(502, "server_error", "The broker may not ask there"),
    errors.OutboundFailed: Row(502, "server_error", "Another server failed"),
    errors.InvalidRequest: Row(400, "invalid_request", _BAD),
    errors.InvalidClient: Row(401, "invalid_client", "The client was not authenticated"),
    errors.InvalidGrant: Row(400, "invalid_grant", "The grant is not valid"),
    errors.UnauthorizedClient: Row(400, "unauthorized_client", "The client may not do this"),
    errors.UnsupportedGrantType: Row(400, "unsupported_grant_type", "This grant is not offered"),
    errors.InvalidScope: Row(400, "invalid_scope", "This scope is not offered"),
    errors.InvalidTarget: Row(400, "invalid_target", "No token for this resource"),
    errors.AccessDenied: Row(403, "access_denied", "Policy refuses this"),
    errors.InvalidDpopProof: Row(400, "invalid_dpop_proof", "The DPoP proof was not accepted"),
    errors.UseDpopNonce: Row(400, "use_dpop_nonce", "Use the nonce"),
    errors.InvalidToken: Row(401, "invalid_token", "The access token was not accepted"),
    errors.InsufficientScope: Row(403, "insufficient_scope", "The token's scope is too narrow"),
    errors.UnknownModel: Row(404, "model_not_found", "No endpoint offers this model"),
    errors.CallDenied: Row(403, "access_denied", "Policy refuses this call"),
    errors.TooLarge: Row(413, "invalid_request", "The body is too large"),
    ProviderFailed: Row(502, "provider_failed", "The provider could not be asked"),
}
"""Every class of the tree that can reach a route."""

_UNMAPPED = Row(500, "server_error", "Something went wrong in the broker")
_NO_DETAIL = "Something went wrong in the broker; its log has the details under this request's id."


@dataclass(frozen=True, slots=True)
class Shown:
    """An error ready to be sent."""

    status: int
    headers: Headers
    body: bytes


def row(error: BaseException) -> Row:
    """The row of an error's class or of its nearest ancestor."""
    for cls in type(error).__mro__:
        found = TABLE.get(cls)
        if found is not None:
            return found
    return _UNMAPPED


def oauth(error: BaseException, request_id: str) -> Shown:
    """As the token endpoint answers (RFC 6749 §5.2)."""
    found, detail = _looked_up(error, request_id)
    headers = _headers(error, request_id)
    if found.code == "invalid_client":
        headers.append((b"www-authenticate", b"private_key_jwt"))
    body = orjson.dumps({"error": found.code, "error_description": _printable(detail)})
    return Shown(found.status, [*headers, (b"content-type", b"application/json")], body)


def problem(error: BaseException, request_id: str, resource: str) -> Shown:
    """As the API answers: a problem document (RFC 9457), with a challenge where a token is missing."""
    found, detail = _looked_up(error, request_id)
    status, headers = _challenge(error, found, resource, _headers(error, request_id))
    body = orjson.dumps(
        {
            "type": f"urn:broker:problem:{found.code}",
            "title": found.title,
            "status": status,
            "detail": detail,
            "request_id": request_id,
        }
    )
    return Shown(status, [*headers, (b"content-type", b"application/problem+json")], body)


def plain_problem(status: int, request_id: str, headers: Mapping[str, str]) -> Shown:
    """A problem document for what the routing itself says: no such path, no such method there."""
    title = HTTPStatus(status).phrase
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status, "request_id": request_id})
    said = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Shown(status, [*said, (b"content-type", b"application/problem+json")], body)


def provider_format(error: BaseException, request_id: str, resource: str, wire: Wire) -> Shown:
    """As the gateway answers: in the shape that the wire format's clients understand."""
    found, detail = _looked_up(error, request_id)
    status, headers = _challenge(error, found, resource, _headers(error, request_id, wire.request_id_headers))
    body = wire.error_body(status, detail, found.code, request_id)
    return Shown(status, [*headers, (b"content-type", b"application/json")], body)


def _looked_up(error: BaseException, request_id: str) -> tuple[Row, str]:
    found = row(error)
    if isinstance(error, BrokerError) and found is not _UNMAPPED and found.status != 500:
        return found, error.detail
    log.error("request %s failed", request_id, exc_info=error)
    return found, _NO_DETAIL


def _headers(error: BaseException, request_id: str, names: tuple[bytes, ...] = (b"x-request-id",)) -> Headers:
    headers: Headers = [(b"cache-control", b"no-store"), *((name, request_id.encode()) for name in names)]
    if isinstance(error, errors.UseDpopNonce):
        headers.append((b"dpop-nonce", error.nonce.encode()))
    if isinstance(error, errors.Unavailable):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    return headers


def _challenge(error: BaseException, found: Row, resource: str, headers: Headers) -> tuple[int, Headers]:
    """At a protected resource, a token or proof that is not accepted is 401 with a challenge (RFC 9449 §7.1)."""
    if not isinstance(error, errors.InvalidToken | errors.InvalidDpopProof | errors.UseDpopNonce):
        return found.status, headers
    origin, _, path = resource.partition("://")[2].partition("/")
    metadata = f"{resource.partition('://')[0]}://{origin}/.well-known/oauth-protected-resource/{path}"
    parts = [f'resource_metadata="{metadata}"', 'algs="ES256 EdDSA"']
    if error.reason != "no_token":  # RFC 6750 §3.1: no error code when no token was sent
        parts = [f'error="{found.code}"', f'error_description="{_printable(error.detail)}"', *parts]
    return 401, [*headers, (b"www-authenticate", f"DPoP {', '.join(parts)}".encode())]


def _printable(text: str) -> str:
    """RFC 6749 §5.2: error_description holds no quotation mark, no backslash and nothing beyond printable ASCII."""
    plain = text.replace('"', "'").replace("\\", "/").replace("\n", " ").replace("→", "->").replace("§", "section ")
    return "".join(c if " " <= c <= "~" else "?" for c in plain)[:1000]
