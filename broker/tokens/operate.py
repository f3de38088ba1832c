"""What an operator may do: the token and proof of the API, and `operators.cedar`."""

from __future__ import annotations

from dataclasses import dataclass

from broker.audit.disclosure import WHOLE, Disclosure
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.refusals import RefusalCounter
from broker.clock import Clock
from broker.db.claims import ClaimTaken
from broker.errors import AccessDenied, InvalidDpopProof, Refused
from broker.formats.record import GROUPS
from broker.identity.operators import Operator
from broker.policy.active import ActivePolicies
from broker.policy.decided import Decided
from broker.policy.prepared import PreparedCache
from broker.policy.request import Entity, Uid
from broker.tokens.bearer import Caller, Presented, TokenVerifier
from broker.tokens.issue import TokenRules

ACTIONS = ("read", "readTrail", "propose", "approve", "contain", "erase")
READ_GROUP = "readGroup"
"""Asked once for each group of fields, of whoever may `readTrail`."""


class _ThisBroker:
    """The broker as what operators work on."""

    uid: Uid = ("Broker", "this")

    def entity(self) -> Entity:
        """What policies can ask about it: nothing but which it is."""
        return Entity(self.uid)


_THIS = _ThisBroker()


@dataclass(frozen=True, slots=True)
class Admitted:
    """An operator whom the policies let do something.

    Args:
        operator: who.
        decided: the decision that says so.
        thumbprint: of the key that the token is bound to, "" if to none.
    """

    operator: Operator
    decided: Decided
    thumbprint: str


@dataclass(frozen=True, slots=True)
class OperatorGate:
    """Stands in front of every route of the API. Fails closed."""

    rules: TokenRules
    verifier: TokenVerifier
    policies: ActivePolicies
    prepared: PreparedCache
    audit: AuditLog
    refusals: RefusalCounter
    clock: Clock

    async def admit(self, presented: Presented, action: str, *, source: str, request_id: str) -> Admitted:
        """The operator behind a request, if the policies let them do `action`.

        Raises:
            InvalidToken, InvalidDpopProof, UseDpopNonce: counted; the sender has proved nothing.
            AccessDenied: recorded.
            Unavailable: the proof could not be claimed durably.
        """
        try:
            caller = self.verifier.caller(presented, self.rules.issuer + "/api/v1")
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, self.clock.now())
            raise
        return await self._ruled(caller, presented, action, source, request_id)

    async def admit_still(self, presented: Presented, action: str, *, source: str, request_id: str) -> Operator:
        """Makes sure, while a long answer is sent, that who was admitted may go on with it.

        Raises:
            InvalidToken: the token has ended, its key, or who it is for is gone; counted.
            AccessDenied: the policies do not let them any more; recorded.
            Unavailable: the refusal could not be recorded.
        """
        try:
            caller = self.verifier.admitted(presented, self.rules.issuer + "/api/v1")
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, self.clock.now())
            raise
        return (await self._ruled(caller, presented, action, source, request_id)).operator

    async def _ruled(self, caller: Caller, presented: Presented, action: str, source: str, request_id: str) -> Admitted:
        principal, thumbprint = caller.principal, caller.token.jkt or ""
        decided = self.prepared.decide(self.policies.current, principal, action, _THIS, {})
        if decided.permitted and isinstance(principal, Operator):
            if caller.claims:
                await self._claim(caller, ())
            return Admitted(principal, decided, thumbprint)
        refusal = self._refusal(principal.id, thumbprint, presented, action, decided, source, request_id)
        await self._claim(caller, (refusal,))
        named = f" ({', '.join(decided.decision.policies)})" if decided.decision.policies else ""
        raise AccessDenied(
            f"The policies do not let you {action}{named}. Ask an admin for a role, or a policy, that does."
        )

    async def withhold(
        self, admitted: Admitted, group: str, presented: Presented, *, source: str, request_id: str
    ) -> None:
        """Records that an operator was refused what only that group of records tells.

        Raises:
            Unavailable: it could not be recorded.
        """
        operator = admitted.operator
        decided = self.prepared.decide(self.policies.current, operator, READ_GROUP, _THIS, {"group": group})
        refusal = self._refusal(operator.id, admitted.thumbprint, presented, READ_GROUP, decided, source, request_id)
        await self.audit.record(Step((refusal,)))

    def _refusal(
        self,
        agent: str,
        thumbprint: str,
        presented: Presented,
        action: str,
        decided: Decided,
        source: str,
        request_id: str,
    ) -> Event:
        return Event(
            Kind.OPERATOR_REFUSED,
            agent=agent,
            at=self.clock.now(),
            request_id=request_id,
            who={"agent": agent, "thumbprint": thumbprint},
            what={"action": action, "resource": f"{presented.method} {presented.path}"[:500]},
            decision={**decided.told, "outcome": "deny"},
            request={"source": source},
            inputs=decided.inputs,
        )

    def disclosure(self, operator: Operator) -> Disclosure:
        """The groups of records that the policies let an operator be shown.

        A vocabulary without the action is of a set that was made before groups could be withheld; under it, whoever
        may read the trail is shown all of it.
        """
        policies = self.policies.current
        if READ_GROUP not in policies.actions:
            return WHOLE
        asked = {
            name: self.prepared.decide(policies, operator, READ_GROUP, _THIS, {"group": name}).permitted
            for name in GROUPS
        }
        return Disclosure(frozenset(name for name, permitted in asked.items() if permitted))

    async def _claim(self, caller: Caller, events: tuple[Event, ...]) -> None:
        try:
            await self.audit.record(Step(events, caller.claims))
        except ClaimTaken:
            raise InvalidDpopProof("This DPoP proof was used before.", reason="replayed_proof") from None
