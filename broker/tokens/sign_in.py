"""Operators' sign-in: a one-time link turns a machine's new key into an operator's key.

The code travels in a request that proves the key (DPoP); the same step spends the code, registers the key and records
it. Tokens then come from `/token` like everybody's, by an assertion that this key signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlmodel import Session

from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, ClaimTaken, Step
from broker.audit.refusals import RefusalCounter
from broker.clock import Clock
from broker.entropy import Entropy
from broker.errors import AccessDenied, InvalidDpopProof, Refused
from broker.formats import dpop
from broker.identity import operators
from broker.identity.directory import Directory
from broker.identity.operators import Operator, OperatorRow
from broker.tokens import replay
from broker.tokens.issue import TokenRules
from broker.tokens.replay import ReplayMemory

PATH = "/login"
FIRST_ADMIN = "admin"
_MAX_KEYS = 10


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

        Whoever starts the broker owns its data; the link gives that person the roles of an admin and an auditor.
        """
        now = self.clock.now()
        known = self.directory.operators.get(name) or Operator(name, operators.ROLES)

        def change(session: Session) -> str:
            operators.store(session, known, now=now)
            return operators.new_link(session, name, now=now, entropy=self.entropy, loopback_only=True)

        event = Event(
            Kind.LINK_ISSUED,
            agent="broker",
            at=now,
            request_id=f"link-{int(now)}",
            what={"action": "link"},
            remedy={"operator": name, "lifetime_s": operators.LINK_LIFETIME_S},
        )
        receipt = await self.audit.record(Step((event,), change=change))
        self.directory.operators[name] = known
        return f"{self.rules.issuer}{PATH}#{receipt.result}"

    async def spend(
        self, code: str, *, proofs: Sequence[str], source: str, from_loopback: bool, request_id: str
    ) -> Operator:
        """Spends a link: the key that made the proof becomes a key of the link's operator.

        Raises:
            InvalidDpopProof: no proof, or one that does not fit.
            AccessDenied: the link is unknown, used, too old, or for another machine.
        """
        now = self.clock.now()
        try:
            if len(proofs) != 1:
                raise InvalidDpopProof("Send one DPoP header that proves the key to register.")
            proof = dpop.verify(
                proofs[0],
                method="POST",
                url=self.rules.issuer + PATH,
                now=now,
                window_s=self.rules.dpop_window_s,
                access_token=None,
            )
            claim = replay.proof_claim(proof.jkt, proof.jti, iat=proof.iat, window_s=self.rules.dpop_window_s)
            if not self.replay.claim(claim, now):
                raise InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof")

            def change(session: Session) -> Operator:
                name = operators.spend_link(session, code, now=now, from_loopback=from_loopback)
                row = session.get(OperatorRow, name)
                if row is None or row.status != "active":
                    raise AccessDenied("This operator is not active. Ask another admin.")
                known = operators.load(row)
                others = tuple(key for key in known.keys if key.thumbprint != proof.jkt)
                operator = replace(known, keys=(*others, proof.public)[-_MAX_KEYS:])
                operators.store(session, operator, now=now)
                return operator

            event = Event(
                Kind.OPERATOR_SIGNED_IN,
                agent="broker",
                at=now,
                request_id=request_id,
                who={"thumbprint": proof.jkt},
                what={"action": "sign_in"},
                decision={"outcome": "permit"},
                request={"source": source},
            )
            receipt = await self.audit.record(Step((event,), (claim,), change))
        except ClaimTaken:
            raise InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof") from None
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, now)
            raise
        operator = receipt.result
        assert isinstance(operator, Operator)
        self.directory.operators[operator.name] = operator
        return operator
