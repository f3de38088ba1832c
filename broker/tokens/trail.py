"""What becomes known of a request at the token endpoint, step by step, and how its records tell it."""

from __future__ import annotations

from dataclasses import dataclass

from broker.audit.events import UNKNOWN, Event, Group, Kind
from broker.db.claims import Claim
from broker.formats.dpop import Proof
from broker.identity.agents import Agent
from broker.identity.attesters import Attested
from broker.identity.directory import Principal
from broker.identity.enrolment import Enrolled, Ruling
from broker.policy.decided import Decided
from broker.tokens.request import TokenRequest


@dataclass(slots=True)
class Trail:
    """What is known of a request so far, for its record.

    Args:
        request: as it was sent.
        attested: its verified evidence.
        proof: the verified proof of its key, if it brought one.
        at: when it was verified, seconds since the epoch.
        claims: what it took, and must take durably.
        ruling: what the enrolment rules said of its evidence.
        enrolled: which agent the rules say it is.
        principal: who it is.
        audience: the resource that the token is for.
        decided: what the policies said of the exchange; None until they were asked.
    """

    request: TokenRequest
    attested: Attested
    proof: Proof | None
    at: float
    claims: tuple[Claim, ...] = ()
    ruling: Ruling | None = None
    enrolled: Enrolled | None = None
    principal: Principal | None = None
    audience: str = ""
    decided: Decided | None = None

    def decision(self) -> dict[str, object]:
        """What the policies were asked and said until now, as records tell it."""
        members = dict(self.decided.told) if self.decided is not None else {}
        if self.ruling is not None:
            members["enrolment"] = self.ruling.brief
        return members

    def event(
        self,
        kind: Kind,
        decision: dict[str, object],
        *,
        who: Group | None = None,
        for_whom: Group | None = None,
        what: Group | None = None,
        posture: Group | None = None,
    ) -> Event:
        """A record of this request. Digests and thumbprints stand in it, never a token, evidence or proof.

        Args:
            kind: of the record.
            decision: the group.
            who, for_whom, what, posture: what such a record tells beside. An auditor may be shown one of them and not
                another, so each holds what it is about, and none what another is.
        """
        principal = self.principal
        agent = principal.id if principal is not None else self.attested.claimed_agent
        if self.enrolled is not None:
            agent = self.enrolled.agent
        owner = principal.owner if isinstance(principal, Agent) else ""
        thumbprint = self.proof.jkt if self.proof is not None else ""
        return Event(
            kind,
            agent=agent or UNKNOWN,
            at=self.at,
            request_id=self.request.request_id,
            who={"agent": agent, "thumbprint": thumbprint, **(who or {})},
            for_whom={"owner": owner, "subject": self.attested.subject, **(for_whom or {})},
            what={"action": "exchange", "resource": self.audience, **(what or {})},
            decision=decision,
            request={"source": self.request.source, "grant": self.request.grant_type},
            posture={
                "attester": self.attested.attester,
                "evidence": self.attested.digest,
                "rules": list(self.enrolled.rules) if self.enrolled is not None else [],
                "confirmation": "dpop" if self.proof is not None else "none",
                **(posture or {}),
            },
            inputs=(
                *(self.decided.inputs if self.decided is not None else ()),
                *(self.ruling.decided.inputs if self.ruling is not None else ()),
            ),
        )

    def enrolment(self, agent: Agent) -> Event:
        """The record that a rule made this agent, or changed what it may."""
        return self.event(
            Kind.AGENT_ENROLLED,
            dict(self.ruling.decided.told) if self.ruling is not None else {},
            for_whom={"owner": agent.owner, "purpose": agent.purpose},
            what={"ceiling": sorted(agent.ceiling)},
        )
