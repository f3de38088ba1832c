"""An agent's credential and what to do with it, without I/O.

`Session.flow` is a generator. It yields what it needs, a driver does it and sends the outcome back: send the
caller's request with these headers, ask the token endpoint, read the evidence, wait for whoever renews
already. So the same rules hold for threads and tasks, and for every HTTP library.

One token request at a time: who comes while another asks waits for that outcome, success and refusal alike. A
token is renewed at two thirds of its life by the first request that comes then; the others go on with the old
one, and so does the first if the renewal fails.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal

from broker.client.errors import BrokerUnreachable, ClientError, NoReceipt, WrongOrigin
from broker.client.origin import Origin, broker_origin
from broker.client.steps import Acquire, Answer, Ask, Fetch, Held, Registered, Reply, Send, Step, WantEvidence
from broker.client.token_request import (
    TokenAnswer,
    build_token_request,
    client_assertion,
    client_credentials_form,
    exchange_form,
    read_token_answer,
)
from broker.clock import Clock
from broker.entropy import Entropy, new_id
from broker.errors import Malformed, UseDpopNonce, VerificationFailed
from broker.formats import dpop, note, succession, tlog_proof
from broker.formats import receipt as receipts
from broker.formats.jwk import PrivateKey
from broker.formats.note import NoteVerifier

_MAX_NONCE = 256
_DPOP_CHALLENGE = re.compile(r"(?:^|,)\s*DPoP\b(.*)", re.IGNORECASE | re.DOTALL)
_ERROR = re.compile(r"""(?:^|[\s,])error\s*=\s*"?([a-z_]+)""", re.IGNORECASE)


@dataclass(frozen=True, slots=True, repr=False)
class _Token:
    """A token with its life on the monotonic clock."""

    value: str
    expires_at: float
    renew_at: float


class Session:
    """What an agent holds: its key, its current token, the broker's nonces.

    Args:
        broker_url: the broker's issuer identifier; https, or http on loopback.
        registered: the client and its key for private_key_jwt; evidence is exchanged where there is none.
        resource: what tokens are for; the broker's OpenAI gateway unless given.
        scope: everything that policy gives, unless named.
        subject_token_type: what kind of token the evidence is.
        proof_key: the key that tokens are bound to.
        clock: the time.
        entropy: makes ids of proofs.
        allow_plain_http: take http beyond loopback, where something else encrypts.
        log_key: a key of the broker's log; a token counts only once the log proves that it was issued on record.

    Raises:
        ConfigurationError: a broker URL that is none.
    """

    def __init__(
        self,
        broker_url: str,
        *,
        registered: Registered | None,
        resource: str | None,
        scope: str | None,
        subject_token_type: str,
        proof_key: PrivateKey,
        clock: Clock,
        entropy: Entropy,
        allow_plain_http: bool,
        log_key: NoteVerifier | None = None,
    ) -> None:
        self._log_key = log_key
        self._broker_url = broker_url.rstrip("/")
        self._origin = broker_origin(self._broker_url, allow_plain_http=allow_plain_http)
        self._registered = registered
        self._resource = resource or f"{self._broker_url}/openai/v1"
        self._scope = scope
        self._subject_token_type = subject_token_type
        self._key = proof_key
        self._clock = clock
        self._entropy = entropy
        self._token: _Token | None = None
        self._nonces: dict[Literal["token", "resource"], str] = {}
        self._answered = 0
        self._abandoned = 0
        self._failure: ClientError | None = None

    def flow(self, method: str, url: str, origin: Origin, *, replayable: bool) -> Generator[Step, Reply, None]:
        """Everything that one request of the caller needs.

        A 401 is answered at most once with a nonce it asked for and once with a new token, and only when the
        request's body can be sent again; otherwise it is the caller's.

        Raises:
            WrongOrigin: the request goes elsewhere; nothing was sent.
            ClientError: there is no token to be had.
        """
        if origin != self._origin:
            raise WrongOrigin(
                f"{origin.scheme}://{origin.host}:{origin.port} is not the broker at {self._broker_url}: use "
                "this auth for requests to the broker only, and another client for the rest."
            )
        token = yield from self._usable_token()
        may_repeat = {"use_dpop_nonce", "invalid_token"} if replayable else set()
        while True:
            proof = dpop.prove(
                self._key,
                method=method,
                url=url,
                now=self._clock.now(),
                jti=new_id(self._entropy),
                access_token=token.value,
                nonce=self._nonces.get("resource"),
            )
            answer = yield from _sent(Send({"Authorization": f"DPoP {token.value}", "DPoP": proof}))
            self._learn_nonce("resource", answer)
            error = _dpop_error(answer) if answer.status == 401 else None
            if error == "invalid_token":
                self._forget(token)
            if error not in may_repeat:
                return
            may_repeat.discard(error)
            if error == "invalid_token":
                token = yield from self._renewed_together()

    def _usable_token(self) -> Generator[Step, Reply, _Token]:
        token, now = self._token, self._clock.monotonic()
        if token is None or now >= token.expires_at:
            return (yield from self._renewed_together())
        if now < token.renew_at:
            return token
        held = yield from _acquired(Acquire(wait=False))
        if held is None:
            return token
        try:
            if self._token is not token:
                return self._token or token
            # Before it is tried, so that a renewal that dies with its request is not tried by each request
            # after it.
            self._token = _Token(token.value, token.expires_at, now + (token.expires_at - now) / 3)
            return (yield from self._renewed())
        except ClientError:
            return token
        finally:
            held.release()

    def _renewed_together(self) -> Generator[Step, Reply, _Token]:
        """A new token, from the one request that all who wait share."""
        answered, abandoned = self._answered, self._abandoned
        held = yield from _acquired(Acquire(wait=True))
        assert held is not None
        try:
            token = self._token
            if token is not None and self._clock.monotonic() < token.expires_at:
                return token
            if self._answered != answered and self._failure is not None:
                raise self._failure.with_traceback(None)
            if self._abandoned - abandoned >= 2:
                raise BrokerUnreachable(
                    "Two token requests got no answer while this one waited. Check that the broker can be reached."
                )
            return (yield from self._renewed())
        finally:
            held.release()

    def _renewed(self) -> Generator[Step, Reply, _Token]:
        """Asks the token endpoint; the caller holds the lock."""
        try:
            token = yield from self._asked()
        except ClientError as error:
            self._failure = error
            self._answered += 1
            raise
        except GeneratorExit:  # the connection failed, or the caller gave up
            self._abandoned += 1
            raise
        self._token, self._failure = token, None
        self._answered += 1
        return token

    def _asked(self) -> Generator[Step, Reply, _Token]:
        evidence = "" if self._registered is not None else (yield from _read_evidence())
        asked_at = self._clock.monotonic()
        try:
            answer = yield from self._posted(evidence)
            result = read_token_answer(answer.status, answer.headers, answer.body)
        except UseDpopNonce:  # learned with the answer
            answer = yield from self._posted(evidence)
            try:
                result = read_token_answer(answer.status, answer.headers, answer.body)
            except UseDpopNonce as error:
                raise BrokerUnreachable("The token endpoint takes none of its own nonces. Ask its operator.") from error
        if self._log_key is not None:
            yield from self._proved(result, self._log_key)
        return _Token(result.access_token, asked_at + result.expires_in_s, asked_at + result.expires_in_s * 2 / 3)

    def _proved(self, result: TokenAnswer, log_key: NoteVerifier) -> Generator[Step, Reply, None]:
        """Makes sure that the log holds the token's record.

        Raises:
            NoReceipt: it does not prove so; a token made with a stolen signing key has no record.
        """
        receipt = result.receipt
        if receipt is None:
            raise NoReceipt("The token came without a receipt of its record. Check that the broker gives them.")
        proof = (yield from self._fetched(f"/log/receipt/{receipt.index}")).decode("utf-8", "replace")
        try:
            statements: tuple[str, ...] = ()
            if (log_key.name, log_key.key_id) not in note.unverified_signers(tlog_proof.checkpoint_of(proof)):
                statements = succession.published((yield from self._fetched("/log/keys")))
            receipts.check(receipt, proof, result.access_token, log_key, statements)
        except (Malformed, VerificationFailed) as error:
            raise NoReceipt(f"The token was discarded: the log does not prove its record. {error.detail}") from error

    def _fetched(self, path: str) -> Generator[Step, Reply, bytes]:
        answer = yield from _sent(Fetch(self._broker_url + path))
        if answer.status != 200:
            raise NoReceipt(f"The token was discarded, for {path} answered {answer.status}. Try again in a moment.")
        return answer.body

    def _posted(self, evidence: str) -> Generator[Step, Reply, Answer]:
        now, registered = self._clock.now(), self._registered
        if registered is None:
            form = exchange_form(
                evidence,
                resource=self._resource,
                scope=self._scope,
                subject_token_type=self._subject_token_type,
            )
        else:
            assertion = client_assertion(
                registered.client_id,
                registered.key,
                audience=self._broker_url,
                now=now,
                jti=new_id(self._entropy),
                kid=registered.kid,
            )
            form = client_credentials_form(registered.client_id, assertion, resource=self._resource, scope=self._scope)
        request = build_token_request(
            self._broker_url,
            form,
            self._key,
            now=now,
            jti=new_id(self._entropy),
            nonce=self._nonces.get("token"),
            receipt=self._log_key is not None,
        )
        answer = yield from _sent(Ask(request))
        self._learn_nonce("token", answer)
        return answer

    def _learn_nonce(self, kind: Literal["token", "resource"], answer: Answer) -> None:
        """Each kind of endpoint has nonces of its own (RFC 9449 §8.2 and §9); the newest counts."""
        nonce = answer.headers.get("dpop-nonce")
        if nonce and len(nonce) <= _MAX_NONCE:
            self._nonces[kind] = nonce

    def _forget(self, token: _Token) -> None:
        if self._token is not None and self._token.value == token.value:
            self._token = None


def _sent(step: Send | Ask | Fetch) -> Generator[Step, Reply, Answer]:
    reply = yield step
    assert isinstance(reply, Answer)
    return reply


def _acquired(step: Acquire) -> Generator[Step, Reply, Held | None]:
    reply = yield step
    assert reply is None or isinstance(reply, Held)
    return reply


def _read_evidence() -> Generator[Step, Reply, str]:
    reply = yield WantEvidence()
    assert isinstance(reply, str)
    return reply


def _dpop_error(answer: Answer) -> str | None:
    """What the DPoP challenge of a 401 asks for (RFC 9449 §7.1 and §9); None if it cannot be given."""
    challenge = _DPOP_CHALLENGE.search(answer.headers.get("www-authenticate") or "")
    found = _ERROR.search(challenge[1]) if challenge is not None else None
    error = None if found is None else found[1].lower()
    return None if error == "use_dpop_nonce" and not answer.headers.get("dpop-nonce") else error
