"""Operators' sign-in: a one-time link turns a machine's new key into an operator's key.

The code travels in a request that proves the key (DPoP); the same step spends the code, registers the key and records
it. Tokens then come from `/token` like everybody's, by an assertion that this key signs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import Session

from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.refusals import RefusalCounter
from broker.clock import Clock
from broker.db.claims import ClaimTaken
from broker.entropy import Entropy
from broker.errors import AccessDenied, ConfigurationError, InvalidDpopProof, Refused
from broker.formats import dpop
from broker.formats.dpop import Proof
from broker.identity import agents, operators
from broker.identity.directory import Directory
from broker.identity.operators import Operator, OperatorRow
from broker.tokens import replay
from broker.tokens.issue import TokenRules
from broker.tokens.replay import ReplayMemory

PATH = "/login"
FIRST_ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class _Changed:
    """What a durable step left: the operator as stored, and the new link's code if it made one."""

    operator: Operator
    code: str = ""


@dataclass(frozen=True, slots=True)
class SignIn:
    """Everything that sign-in needs, put together by `broker.assembly`."""

    rules: TokenRules
    directory: Directory
    replay: ReplayMemory
    audit: AuditLog
    refusals: RefusalCounter
    clock: Clock
    entropy: Entropy

    async def link(self, name: str = FIRST_ADMIN) -> str:
        """Makes the one-time link that the terminal shows: for this machine alone, single use, ten minutes.

        Whoever starts the broker owns its data: the link gives the first one the roles of an admin and an auditor, and
        later anybody known a way back in.

        Raises:
            ConfigurationError: no operator can have this name, or there is none and an admin can add one.
        """
        if not operators.OPERATOR_NAME.fullmatch(name):
            raise ConfigurationError(f"{name!r} is no operator's name: small letters, digits and . _ - up to 63.")
        if name not in self.directory.operators and self.directory.signed_in():
            raise ConfigurationError(f"There is no operator {name}. Ask an admin to add the operator, and then again.")
        now = self.clock.now()

        def change(session: Session) -> _Changed:
            row = session.get(OperatorRow, name)
            operator = operators.load(row) if row is not None else Operator(name, operators.ROLES)
            if row is None:
                operators.store(session, operator, now=now)
            return _Changed(
                operator, operators.new_link(session, name, now=now, entropy=self.entropy, loopback_only=True)
            )

        event = Event(
            Kind.LINK_ISSUED,
            agent="broker",
            at=now,
            request_id=f"link-{int(now)}",
            what={"action": "link"},
            remedy={"operator": name, "lifetime_s": operators.LINK_LIFETIME_S},
        )
        receipt = await self.audit.record(Step((event,), change=change, landed=self._landed))
        assert isinstance(receipt.result, _Changed)
        return f"{self.rules.issuer}{PATH}#{receipt.result.code}"

    async def spend(
        self, code: str, *, proofs: Sequence[str], source: str, from_loopback: bool, request_id: str
    ) -> Operator:
        """Spends a link: the key that made the proof becomes a key of the link's operator.

        A code that is good proves something: from there on a refusal is recorded, before that it is counted.

        Raises:
            InvalidDpopProof: no proof, or one that does not fit.
            AccessDenied: the link is unknown, used, too old, or for another machine or key; or its operator is not
                active.
        """
        now = self.clock.now()
        try:
            proof = self._proved(proofs, now)
            name = await asyncio.to_thread(self.directory.link_owner, code, now=now, from_loopback=from_loopback)
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, now)
            raise

        def change(session: Session) -> _Changed:
            operators.spend_link(session, code, thumbprint=proof.jkt, now=now, from_loopback=from_loopback)
            row = session.get(OperatorRow, name)
            if row is None or row.status != "active":
                raise AccessDenied("This operator is not active. Ask another admin.", reason="inactive_operator")
            known = operators.load(row)
            others = tuple(key for key in known.keys if key.thumbprint != proof.jkt)
            operator = replace(known, keys=(*others, proof.public)[-agents.MAX_KEYS :])
            operators.store(session, operator, now=now)
            return _Changed(operator)

        def event(kind: Kind, decision: dict[str, object]) -> Event:
            return Event(
                kind,
                agent=operators.PREFIX + name,
                at=now,
                request_id=request_id,
                who={"agent": operators.PREFIX + name, "thumbprint": proof.jkt},
                what={"action": "sign_in"},
                decision=decision,
                request={"source": source},
            )

        claim = replay.proof_claim(proof.jkt, proof.jti, iat=proof.iat, window_s=self.rules.dpop_window_s)
        signed_in = event(Kind.OPERATOR_SIGNED_IN, {"outcome": "permit"})
        refused: Refused
        try:
            receipt = await self.audit.record(Step((signed_in,), (claim,), change, self._landed))
        except ClaimTaken:
            refused = InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof")
        except Refused as error:
            refused = error
        else:
            assert isinstance(receipt.result, _Changed)
            return receipt.result.operator
        why: dict[str, object] = {"outcome": "deny", "reason": refused.reason, "why": refused.detail}
        await self.audit.record(Step((event(Kind.OPERATOR_REFUSED, why),)))
        raise refused

    def _landed(self, result: object) -> None:
        assert isinstance(result, _Changed)
        self.directory.operators[result.operator.name] = result.operator

    def _proved(self, proofs: Sequence[str], now: float) -> Proof:
        if len(proofs) != 1:
            raise InvalidDpopProof("Send one DPoP header that proves the key to register.")
        return dpop.verify(
            proofs[0],
            method="POST",
            url=self.rules.issuer + PATH,
            now=now,
            window_s=self.rules.dpop_window_s,
            access_token=None,
        )
