"""What the broker publishes about itself: authorization server metadata (RFC 8414), protected resources (RFC 9728)."""

from __future__ import annotations

from authlib.oauth2.rfc8414 import AuthorizationServerMetadata

from broker.formats import dpop
from broker.tokens.issue import TokenRules
from broker.tokens.request import CLIENT_CREDENTIALS, TOKEN_EXCHANGE

_ASSERTION_ALGORITHMS = ["ES256", "ES384", "EdDSA", "RS256", "PS256"]


def authorization_server(rules: TokenRules) -> dict[str, object]:
    """The metadata document (RFC 8414 §2), checked by Authlib's validator. Built from the configured origin alone.

    Raises:
        ValueError: the document would break the specification.
    """
    document: dict[str, object] = {
        "issuer": rules.issuer,
        "token_endpoint": rules.token_endpoint,
        "jwks_uri": rules.issuer + "/.well-known/jwks.json",
        "grant_types_supported": [TOKEN_EXCHANGE, CLIENT_CREDENTIALS],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": ["none", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": _ASSERTION_ALGORITHMS,
        "dpop_signing_alg_values_supported": sorted(dpop.ALGORITHMS),
        "protected_resources": sorted(rules.audiences),
    }
    metadata = AuthorizationServerMetadata(document)
    for check in ("issuer", "token_endpoint", "jwks_uri", "grant_types_supported"):
        if rules.issuer.startswith("https://"):  # Authlib, like the RFC, takes https alone; loopback has plain http
            getattr(metadata, f"validate_{check}")()
    metadata.validate_token_endpoint_auth_methods_supported()
    metadata.validate_token_endpoint_auth_signing_alg_values_supported()
    return document


def protected_resource(rules: TokenRules, resource: str) -> dict[str, object]:
    """The metadata of one protected resource (RFC 9728 §2)."""
    return {
        "resource": resource,
        "authorization_servers": [rules.issuer],
        "jwks_uri": rules.issuer + "/.well-known/jwks.json",
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": sorted(dpop.ALGORITHMS),
        "dpop_bound_access_tokens_required": False,
    }
