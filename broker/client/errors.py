"""What can go wrong between an agent and its broker; each text says what to do."""

from __future__ import annotations

from broker.errors import BrokerError


class ClientError(BrokerError):
    """Anything that the SDK raises on purpose while it works; wrong arguments are `ConfigurationError`."""

    reason = "client"


class TokenRefused(ClientError):
    """The token endpoint said no (RFC 6749 §5.2). Asking again with the same evidence changes nothing.

    Attributes:
        error: the OAuth error code, such as `invalid_target`.
        description: the broker's own words; may be empty.
        status: the HTTP status.
    """

    reason = "token_refused"

    def __init__(self, error: str, description: str, status: int) -> None:
        advice = _ADVICE.get(error, "Ask an admin of the broker what its log says about this refusal.")
        said = f" ({description})" if description else ""
        super().__init__(f"The broker gave no token: {error}{said}. {advice}")
        self.error = error
        self.description = description
        self.status = status


class BrokerUnreachable(ClientError):
    """The token endpoint gave no answer that means yes or no; asking again later may help.

    When not even a connection was had, the HTTP library's own error is raised in its place.
    """

    reason = "broker_unreachable"


class NoReceipt(ClientError):
    """The log does not prove that the token was issued on record; it was discarded."""

    reason = "no_receipt"


class EvidenceUnavailable(ClientError):
    """The evidence could not be read where it should be; the cause is chained."""

    reason = "evidence_unavailable"


class WrongOrigin(ClientError):
    """A request to somewhere else than the broker; no token and no proof was sent with it."""

    reason = "wrong_origin"


_ADVICE = {
    "access_denied": "Ask an admin of the broker for a policy that lets this agent have it.",
    "invalid_client": "Check the client id, and that the key's public half is registered for it.",
    "invalid_dpop_proof": "Compare this machine's clock with the broker's, and the URL with the issuer.",
    "invalid_grant": "Get fresh evidence; if it is fresh, ask an admin of the broker about it.",
    "invalid_request": "Check that the evidence is current and that its audience is this broker.",
    "invalid_scope": "Ask for a narrower scope.",
    "invalid_target": "Ask an admin of the broker for a policy that allows tokens for this resource.",
    "unauthorized_client": "Ask an admin of the broker to allow this way of getting tokens to this client.",
    "unsupported_grant_type": "Check the broker's URL, and that its version fits this SDK's.",
}
