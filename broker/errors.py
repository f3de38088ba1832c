"""The error tree.

Every class says what kind of thing went wrong; `detail` is a sentence for the person who has to mend it, and it never
says which secret check failed. `reason` is the stable word that the record and the counters use. One table,
`broker.web.errors`, maps classes to HTTP status, OAuth error code and problem type.

    BrokerError
    ├── Malformed               bytes that do not follow their format
    ├── ConfigurationError      refused at start: file, key, reason
    ├── StoreLocked             another broker process holds the data folder
    ├── Unavailable             503: the record could not be made durable, nothing was done
    │   └── Busy                as many of these as there may be at once are under way
    ├── NotFound, Conflict      an admin's request about a thing that is not there / has changed meanwhile
    ├── PolicyInvalid, CasesFailed, ManifestInvalid       a proposed change that is never activated
    ├── VerificationFailed
    │   ├── InvalidSignature    a signature that does not verify under the chosen key
    │   ├── EvidenceRejected    evidence that proves nothing
    │   └── ProofInvalid        a Merkle proof, checkpoint or record that does not fit
    ├── OutboundRefused, OutboundFailed     the one door for outgoing requests
    └── Refused                 a caller's request answered with "no"
        ├── InvalidRequest, InvalidClient, InvalidGrant, UnauthorizedClient, UnsupportedGrantType,
        │   InvalidScope, InvalidTarget, AccessDenied                                  RFC 6749 §5.2, RFC 8693 §2.2.2
        ├── InvalidDpopProof, UseDpopNonce                                             RFC 9449 §5, §8
        ├── InvalidToken, InsufficientScope                                            RFC 6750 §3.1
        └── UnknownModel, CallDenied, TooLarge                                         the gateway
"""

from __future__ import annotations


class BrokerError(Exception):
    """Anything the broker raises on purpose.

    Args:
        detail: a sentence that tells the person what to do.
        reason: the stable word for records and counters; the class's own `reason` unless given.
    """

    reason: str = "error"

    def __init__(self, detail: str, *, reason: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        if reason is not None:
            self.reason = reason


class Malformed(BrokerError):
    """Bytes that do not follow the format they claim."""

    reason = "malformed"


class ConfigurationError(BrokerError):
    """A configuration the broker refuses to start with; the text names the file, the key and the reason."""

    reason = "configuration"


class StoreLocked(BrokerError):
    """Another process holds the data folder; the text names its process id."""

    reason = "store_locked"


class Unavailable(BrokerError):
    """The record could not be made durable in time, so nothing was done. Fails closed: 503."""

    reason = "unavailable"
    retry_after_s = 1


class Busy(Unavailable):
    """As many of these as there may be at once are under way, and take a while."""

    reason = "busy"
    retry_after_s = 10


class Unconfirmed(Unavailable):
    """It was not known in time whether the record is durable: it may become so yet, and what it records with it."""

    reason = "unconfirmed"


class NotFound(BrokerError):
    """The named thing does not exist."""

    reason = "not_found"


class Conflict(BrokerError):
    """The named thing exists already, or changed since it was read."""

    reason = "conflict"


class PolicyInvalid(BrokerError):
    """A policy set that does not parse or does not validate against the schema; it is never activated."""

    reason = "policy_invalid"


class CasesFailed(BrokerError):
    """A policy set that fails at least one of its cases; it is never activated."""

    reason = "cases_failed"


class ManifestInvalid(BrokerError):
    """A declarative file with an unknown kind, key or value; nothing of it was applied."""

    reason = "manifest_invalid"


class VerificationFailed(BrokerError):
    """Something presented as proof does not prove it."""

    reason = "verification_failed"


class InvalidSignature(VerificationFailed):
    """A signature that does not verify under the key chosen for it."""

    reason = "invalid_signature"


class EvidenceRejected(VerificationFailed):
    """Evidence that does not prove what a workload is."""

    reason = "evidence_rejected"


class ProofInvalid(VerificationFailed):
    """A Merkle proof, a checkpoint or a record that does not fit the rest."""

    reason = "proof_invalid"


class OutboundRefused(BrokerError):
    """An outgoing request that the door does not let out (special-use address, redirect, wrong origin)."""

    reason = "outbound_refused"


class OutboundFailed(BrokerError):
    """An outgoing request that was allowed and failed (network, status, size, time)."""

    reason = "outbound_failed"


class Refused(BrokerError):
    """A caller's request answered with "no"."""

    reason = "refused"


class InvalidRequest(Refused):
    """RFC 6749 §5.2 `invalid_request`; also RFC 8693 §2.2.2 for an invalid subject token."""

    reason = "invalid_request"


class InvalidClient(Refused):
    """RFC 6749 §5.2 `invalid_client`."""

    reason = "invalid_client"


class InvalidGrant(Refused):
    """RFC 6749 §5.2 `invalid_grant`."""

    reason = "invalid_grant"


class UnauthorizedClient(Refused):
    """RFC 6749 §5.2 `unauthorized_client`."""

    reason = "unauthorized_client"


class UnsupportedGrantType(Refused):
    """RFC 6749 §5.2 `unsupported_grant_type`."""

    reason = "unsupported_grant_type"


class InvalidScope(Refused):
    """RFC 6749 §5.2 `invalid_scope`."""

    reason = "invalid_scope"


class InvalidTarget(Refused):
    """RFC 8707 §2 and RFC 8693 §2.2.2 `invalid_target`."""

    reason = "invalid_target"


class AccessDenied(Refused):
    """Policy said no (RFC 6749 §4.1.2.1 `access_denied`; on the API, 403)."""

    reason = "access_denied"


class InvalidDpopProof(Refused):
    """RFC 9449 §5 `invalid_dpop_proof`."""

    reason = "invalid_dpop_proof"


class UseDpopNonce(Refused):
    """RFC 9449 §8 and §9 `use_dpop_nonce`; `nonce` is the value to use."""

    reason = "use_dpop_nonce"

    def __init__(self, nonce: str) -> None:
        super().__init__("Repeat the request with a proof that carries the nonce from the DPoP-Nonce header.")
        self.nonce = nonce


class InvalidToken(Refused):
    """RFC 6750 §3.1 `invalid_token`."""

    reason = "invalid_token"


class InsufficientScope(Refused):
    """RFC 6750 §3.1 `insufficient_scope`."""

    reason = "insufficient_scope"


class UnknownModel(Refused):
    """A model that no configured endpoint offers. What is not named is denied."""

    reason = "unknown_model"


class CallDenied(Refused):
    """A model call that policy refused."""

    reason = "call_denied"


class TooLarge(Refused):
    """A body larger than the route takes."""

    reason = "too_large"
