"""Who is at the token endpoint: evidence or an assertion, verified.

The method comes from what is registered, never from which parameter arrived: an assertion is checked only under the
keys registered for the principal it names, and evidence only by the attester whose issuer it names.
"""

from __future__ import annotations

from broker.clock import Clock
from broker.errors import EvidenceRejected, InvalidClient, InvalidRequest, Malformed
from broker.formats import evidence_jwt
from broker.identity.attesters import Attested, Attester, key
from broker.identity.attesters.oidc import OidcVerifier
from broker.identity.directory import Directory
from broker.tokens.request import CLIENT_CREDENTIALS, TokenRequest


class Authenticator:
    """Verifies whatever a token request shows.

    Args:
        directory: attesters and registered keys.
        oidc: verifies platforms' tokens.
        clock: the time.
        audiences: what an assertion's `aud` may be: the issuer identifier (RFC 7523bis), and the token endpoint only
            behind the compatibility setting.
    """

    def __init__(self, directory: Directory, oidc: OidcVerifier, clock: Clock, audiences: tuple[str, ...]) -> None:
        self._directory = directory
        self._oidc = oidc
        self._clock = clock
        self._audiences = audiences

    async def authenticate(self, request: TokenRequest) -> tuple[Attested, Attester]:
        """The verified evidence of a request, and its attester.

        Raises:
            InvalidClient: a client assertion that does not authenticate (RFC 6749 §5.2).
            InvalidRequest: a subject token that proves nothing (RFC 8693 §2.2.2).
            Unavailable: the issuer's keys cannot be had at the moment.
        """
        if request.grant_type == CLIENT_CREDENTIALS:
            if not request.client_assertion:
                raise InvalidClient(
                    "client_credentials needs a client_assertion signed by the client's registered key."
                )
            found = self._by_key(request.client_assertion, InvalidClient)
            if request.client_id and request.client_id != found[0].subject:
                raise InvalidClient("client_id is not the client that signed the assertion.")
            return found
        if request.client_assertion:
            raise InvalidRequest(
                "Send the evidence as subject_token alone, or a client_assertion with client_credentials."
            )
        try:
            issuer = evidence_jwt.unverified_issuer(request.subject_token)
        except (EvidenceRejected, Malformed) as error:
            raise InvalidRequest(f"The subject token cannot be read: {error.detail}", reason=error.reason) from error
        attester = self._directory.attester_of_issuer(issuer)
        if attester is None:
            return self._by_key(request.subject_token, InvalidRequest)
        _check_active(attester, InvalidRequest)
        try:
            attested = await self._oidc.verify(request.subject_token, attester)
        except (EvidenceRejected, Malformed) as error:
            raise InvalidRequest(f"The subject token was not accepted: {error.detail}", reason=error.reason) from error
        # Its issuer may have taken seconds to publish its keys: what was disabled meanwhile is refused.
        _check_active(self._directory.attesters.get(attester.name, attester), InvalidRequest)
        return attested, attester

    def _by_key(self, assertion: str, refusal: type[InvalidClient] | type[InvalidRequest]) -> tuple[Attested, Attester]:
        attester = self._directory.key_attester()
        try:
            unverified_id = evidence_jwt.unverified_issuer(assertion)
            keys = self._directory.registered_keys(unverified_id)
            if attester is None or not keys:
                raise EvidenceRejected("nobody we trust issued it. An admin adds an attester, or registers the key.")
            _check_active(attester, refusal)
            for audience in self._audiences[:-1]:
                try:
                    return self._verified(assertion, attester, unverified_id, audience), attester
                except EvidenceRejected:
                    continue
            return self._verified(assertion, attester, unverified_id, self._audiences[-1]), attester
        except (EvidenceRejected, Malformed) as error:
            raise refusal(f"The evidence was not accepted: {error.detail}", reason=error.reason) from error

    def _verified(self, assertion: str, attester: Attester, principal_id: str, audience: str) -> Attested:
        return key.verify(
            assertion,
            attester,
            principal_id=principal_id,
            keys=self._directory.registered_keys(principal_id),
            audience=audience,
            now=self._clock.now(),
        )


def _check_active(attester: Attester, refusal: type[InvalidClient] | type[InvalidRequest]) -> None:
    if attester.status != "active":
        raise refusal(f"The attester {attester.name} is disabled.", reason="attester_disabled")
