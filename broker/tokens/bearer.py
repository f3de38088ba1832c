"""Who is calling: an access token of ours and the proof of its key (RFC 9449 §7, RFC 9068 §4).

1. The scheme fits the token: a bound token comes as DPoP and never as Bearer. 2. The token verifies for this resource.
3. The proof verifies for this method, URL and token, under the key that the token is bound to. 4. The proof is claimed.
5. The principal still exists.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from dataclasses import dataclass

from broker.clock import Clock
from broker.db.claims import Claim
from broker.errors import InvalidDpopProof, InvalidToken
from broker.formats import access_token, dpop
from broker.formats.access_token import AccessClaims
from broker.identity.directory import Directory, Principal
from broker.keys import KeyRing
from broker.tokens import nonces, replay
from broker.tokens.issue import TokenRules
from broker.tokens.replay import ReplayMemory


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request brought, as it came: nothing in it is verified.

    Args:
        authorization: the values of the Authorization header fields.
        proofs: the values of the DPoP header fields.
        method: the request's method.
        path: the path on which the application routed it; the Host header never matters.
    """

    authorization: tuple[str, ...]
    proofs: tuple[str, ...]
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Caller:
    """A verified caller. Only `TokenVerifier` builds one.

    Args:
        principal: the agent, client or operator, as it is now.
        token: what its access token says.
        confirmation: "dpop", or "none" for a token that a policy left unbound.
        claims: what the request's durable step must claim.
    """

    principal: Principal
    token: AccessClaims
    confirmation: str
    claims: tuple[Claim, ...]


class TokenVerifier:
    """Verifies callers, and remembers verified tokens by the digest of the whole token until they or their key end.

    Args:
        rules: issuer and windows.
        keys: the broker's own keys.
        directory: who exists.
        replay: proofs that were used.
        clock: the time.
        capacity: tokens remembered; the least recently used goes first.
    """

    def __init__(
        self,
        rules: TokenRules,
        keys: KeyRing,
        directory: Directory,
        replay: ReplayMemory,
        clock: Clock,
        *,
        capacity: int = 50_000,
    ) -> None:
        self._rules = rules
        self._keys = keys
        self.directory = directory
        self._replay = replay
        self._clock = clock
        self._capacity = capacity
        self._verified: OrderedDict[bytes, AccessClaims] = OrderedDict()
        self._under = keys.verifying

    def __len__(self) -> int:
        """How many tokens are remembered."""
        return len(self._verified)

    def forget(self, now: float) -> None:
        """Forgets the tokens that have ended."""
        for digest in [digest for digest, claims in self._verified.items() if now >= claims.expires_at]:
            del self._verified[digest]

    def caller(self, presented: Presented, audience: str) -> Caller:
        """The caller of a request to the resource `audience`.

        Raises:
            InvalidToken: no token, one that is not good here, or a principal that is gone.
            InvalidDpopProof: no proof, or one that does not fit.
            UseDpopNonce: the proof must carry the server's nonce.
        """
        now = self._clock.now()
        scheme, token = _credentials(presented)
        claims = self._token(token, audience, now)
        taken: tuple[Claim, ...] = ()
        if claims.jkt is None:
            if scheme != "bearer":
                raise InvalidToken("This token is bound to no key: send it as Bearer, without a proof.")
        else:
            if scheme != "dpop":
                raise InvalidToken("This token is bound to a key: send it as `Authorization: DPoP` with a proof.")
            taken = (self._proved(presented, token, claims.jkt, now),)
        return self._caller(claims, taken)

    def admitted(self, presented: Presented, audience: str) -> Caller:
        """Whoever was verified with this before, as it is now; the proof was claimed then and is not looked at.

        Raises:
            InvalidToken: the token has ended meanwhile, or its key, or its principal is gone.
        """
        return self._caller(self._token(_credentials(presented)[1], audience, self._clock.now()), ())

    def _caller(self, claims: AccessClaims, taken: tuple[Claim, ...]) -> Caller:
        principal = self.directory.principal(claims.subject)
        if principal is None:
            raise InvalidToken("The token's subject is not registered any more. Exchange evidence again.")
        return Caller(principal, claims, "none" if claims.jkt is None else "dpop", taken)

    def _token(self, token: str, audience: str, now: float) -> AccessClaims:
        if self._under is not self._keys.verifying:  # a key ended, or another came: what was verified may not be now
            self._under = self._keys.verifying
            self._verified.clear()
        digest = hashlib.sha256(token.encode()).digest()  # of the whole token: no two tokens share an entry
        claims = self._verified.get(digest)
        if claims is None:
            claims = access_token.verify(token, keys=self._under, issuer=self._rules.issuer, audience=audience, now=now)
            self._verified[digest] = claims
            if len(self._verified) > self._capacity:
                self._verified.popitem(last=False)
        else:
            self._verified.move_to_end(digest)
            if now >= claims.expires_at:
                del self._verified[digest]
                raise InvalidToken("The token has ended. Exchange evidence again.")
            if audience not in claims.audience:
                raise InvalidToken("The token is for another resource. Exchange evidence for this one.")
        return claims

    def _proved(self, presented: Presented, token: str, jkt: str, now: float) -> Claim:
        if len(presented.proofs) != 1:
            raise InvalidDpopProof("Send one DPoP header with a proof for this request (RFC 9449 §7.1).")
        proof = dpop.verify(
            presented.proofs[0],
            method=presented.method,
            url=self._rules.issuer + presented.path,
            now=now,
            window_s=self._rules.dpop_window_s,
            access_token=token,
        )
        if not hmac.compare_digest(proof.jkt.encode(), jkt.encode()):
            raise InvalidDpopProof("The proof is made with another key than the token is bound to.", reason="wrong_key")
        if self._rules.require_dpop_nonce or proof.nonce is not None:
            nonces.check(proof.nonce, self._keys.nonce_key, now)
        claim = replay.proof_claim(proof.jkt, proof.jti, iat=proof.iat, window_s=self._rules.dpop_window_s)
        if not self._replay.claim(claim, now):
            raise InvalidDpopProof(
                "This DPoP proof was used before. Make a new one for every request.", reason="replayed_proof"
            )
        return claim


def _credentials(presented: Presented) -> tuple[str, str]:
    if not presented.authorization:
        raise InvalidToken("Send an access token: `Authorization: DPoP <token>` with a DPoP proof.", reason="no_token")
    if len(presented.authorization) > 1:
        raise InvalidToken("Send one Authorization header.")
    scheme, _, token = presented.authorization[0].partition(" ")
    return scheme.lower(), token.strip(" ")
