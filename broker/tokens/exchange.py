"""Journey A: evidence → token.

1. Parse the form. 2. Verify the proof of the key. 3. Verify the evidence. Up to here the caller has proved nothing, and
a refusal is counted. 4. Claim the proof, and the evidence for this key. 5. Name the agent. 6. Decide. 7. Mint, held
back. 8. One durable step: the claims, the instance, the record. 9. Release. From step 4 on every refusal is recorded,
with the claims, before it is raised; but of workloads that no rule knows, whose platform may vouch for the whole world,
only so many a minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlmodel import Session

from broker.audit.events import Kind
from broker.audit.log import AuditLog, Step
from broker.audit.refusals import Allowance, RefusalCounter
from broker.clock import Clock
from broker.db.claims import Claim, ClaimTaken
from broker.entropy import Entropy
from broker.errors import (
    BrokerError,
    Conflict,
    InvalidClient,
    InvalidDpopProof,
    InvalidRequest,
    InvalidScope,
    InvalidTarget,
    Malformed,
    Refused,
    Unavailable,
)
from broker.formats import dpop
from broker.formats.dpop import Proof
from broker.identity import agents, instances
from broker.identity.agents import Agent, AgentRow
from broker.identity.attesters import Attester
from broker.identity.directory import Directory, Principal
from broker.identity.enrolment import Enrolled, Enrolment, NotEnrolled
from broker.identity.instances import Instance, Instances
from broker.keys import KeyRing
from broker.policy.active import ActivePolicies, ActivePolicyRow
from broker.policy.decided import Decided
from broker.policy.prepared import PreparedCache
from broker.policy.request import Decision
from broker.tokens import nonces, replay
from broker.tokens.client_auth import Authenticator
from broker.tokens.issue import Audience, Minted, TokenRules, mint
from broker.tokens.replay import ReplayMemory
from broker.tokens.request import CLIENT_CREDENTIALS, TokenRequest, parse
from broker.tokens.trail import Trail

_ATTEMPTS = 3


class _Moved(Conflict):
    """What the decision rests on changed before its record was durable. Decided anew, never shown."""

    reason = "moved"


class ExchangeDenied(InvalidTarget):
    """Policy refused to issue a token for this resource (RFC 8693 §2.2.2, RFC 8707 §2)."""

    reason = "policy"


@dataclass(frozen=True, slots=True)
class Granted:
    """A token whose record is durable.

    Args:
        token: the access token.
        token_type: "DPoP" or "Bearer".
        expires_in_s: its lifetime in seconds.
        record: the index of its record in the log.
    """

    token: str
    token_type: str
    expires_in_s: int
    record: int


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """Everything that an exchange needs, put together by `broker.assembly`."""

    rules: TokenRules
    keys: KeyRing
    authenticator: Authenticator
    directory: Directory
    instances: Instances
    policies: ActivePolicies
    prepared: PreparedCache
    replay: ReplayMemory
    audit: AuditLog
    refusals: RefusalCounter
    clock: Clock
    entropy: Entropy
    strangers: Allowance = field(default_factory=Allowance)
    enrolment: Enrolment = field(default_factory=Enrolment)

    async def exchange(self, body: bytes, *, proofs: Sequence[str], source: str, request_id: str) -> Granted:
        """Answers a request at the token endpoint.

        Args:
            body: the form.
            proofs: the values of the DPoP header fields.
            source: the peer's address.
            request_id: names the request in records.

        Raises:
            Refused: counted, or recorded, before it is raised.
            Unavailable: nothing was issued, because it could not be recorded or the issuer's keys cannot be had.
        """
        try:
            request = parse(body, proofs=proofs, source=source, request_id=request_id)
            proof = self._verified_proof(request)
            attested, attester = await self.authenticator.authenticate(request)
        except Refused as refusal:
            self.refusals.count(source, refusal.reason, self.clock.now())
            raise
        trail = Trail(request, attested, proof, self.clock.now())
        refused: BrokerError
        try:
            return await self._settled(trail, attester)
        except ClaimTaken as taken:
            refused = _already_used(taken.key, trail.request.grant_type)
        except (Refused, Malformed) as error:
            refused = error
        if isinstance(refused, NotEnrolled) and not self.strangers.admits(attester.name, self.clock.now()):
            self.refusals.count(source, refused.reason, self.clock.now())
        else:
            await self._record_refusal(trail, attester, refused)
        raise refused

    async def _settled(self, trail: Trail, attester: Attester) -> Granted:
        """Decides anew while a rule or the agent changes under the decision: no step commits what is out of date."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._grant(trail, attester)
            except _Moved:
                continue
        raise Unavailable("The rules are changing at the moment, so nothing was done. Try again in a second.")

    def _verified_proof(self, request: TokenRequest) -> Proof | None:
        if not request.proofs:
            return None
        if len(request.proofs) > 1:
            raise InvalidDpopProof("Send one DPoP header (RFC 9449 §4.3).")
        now = self.clock.now()
        proof = dpop.verify(
            request.proofs[0],
            method="POST",
            url=self.rules.token_endpoint,
            now=now,
            window_s=self.rules.dpop_window_s,
            access_token=None,
        )
        if self.rules.require_dpop_nonce or proof.nonce is not None:
            nonces.check(proof.nonce, self.keys.nonce_key, now)
        return proof

    async def _grant(self, trail: Trail, attester: Attester) -> Granted:
        if trail.proof is not None:
            self._claim(trail)
        if trail.request.scope:
            raise InvalidScope("Scopes are not used here: an agent's rights are its ceiling. Leave scope out.")
        principal, created = self._principal(trail, attester)
        trail.principal = principal
        audience = self.rules.audience(trail.request.resource)
        trail.audience = audience.uri
        decided = trail.decided = self._decide(trail, principal, audience)
        if not decided.permitted:
            if trail.proof is None:
                raise InvalidDpopProof(
                    "A DPoP proof is required (RFC 9449). A policy may permit bearer tokens for this principal."
                )
            raise ExchangeDenied(_why_not(decided.decision))
        self._claim(trail)  # shown without a key, evidence is spent only on a token: a forgotten proof costs nothing
        instance = self._instance(trail, principal)
        minted = mint(
            self.rules,
            self.keys,
            principal,
            audience,
            jkt=trail.proof.jkt if trail.proof is not None else None,
            instance=instance.id if instance is not None else None,
            now=trail.at,
            entropy=self.entropy,
        )
        return await self._release(trail, principal, created, instance, minted)

    def _claim(self, trail: Trail) -> None:
        """Takes the proof, and the evidence for this key, in memory; the durable step takes them again."""
        if trail.claims:
            return
        wanted: list[Claim] = []
        if trail.proof is not None:
            wanted.append(
                replay.proof_claim(
                    trail.proof.jkt, trail.proof.jti, iat=trail.proof.iat, window_s=self.rules.dpop_window_s
                )
            )
        holder = "" if trail.attested.one_use else trail.proof.jkt if trail.proof is not None else "unbound"
        ends = trail.attested.expires_at
        wanted.append(Claim(trail.attested.replay_key, holder, ends + 60, int(ends)))
        for claim in wanted:
            if not self.replay.claim(claim, trail.at):
                raise _already_used(claim.key, trail.request.grant_type)
            trail.claims = (*trail.claims, claim)

    def _principal(self, trail: Trail, attester: Attester) -> tuple[Principal, bool]:
        """Who this is, and whether it is new."""
        attested = trail.attested
        known = self.directory.principal(attested.claimed_agent) if attested.claimed_agent else None
        if known is not None and not isinstance(known, Agent):
            return known, False  # an operator: registered by other operators, no rule names one
        trail.ruling = self.enrolment.ruling(attested, attester, self.policies.current)
        enrolled = trail.enrolled = trail.ruling.enrolled(attested, attester)
        agent = self.directory.agents.get(enrolled.agent)
        if agent is None:
            if not enrolled.fixed_by:
                raise NotEnrolled(
                    f"The evidence names the agent {enrolled.agent}, which is not registered, and no rule fixes its "
                    "owner and ceiling. An admin registers it."
                )
            return _from_rule(enrolled), True
        if enrolled.fixed_by and agent.enrolled_by != enrolled.fixed_by:
            rules = {policy.id for policy in self.policies.current.policies}
            if not agent.enrolled_by or agent.enrolled_by in rules:
                raise NotEnrolled(
                    f"The agent {agent.id} is not of the rule {enrolled.fixed_by}: it was registered otherwise. "
                    "An admin renames one of the two."
                )
        ruled = _from_rule(enrolled, status=agent.status)
        if enrolled.fixed_by and ruled != agent:
            return ruled, True
        return agent, False

    def _decide(self, trail: Trail, principal: Principal, audience: Audience) -> Decided:
        context: dict[str, object] = {
            "confirmation": "dpop" if trail.proof is not None else "none",
            "attester": trail.attested.attester,
            "grant": trail.request.grant_type,
            "lifetime_s": self.rules.lifetime_s,
        }
        return self.prepared.decide(self.policies.current, principal, "exchange", audience, context)

    def _instance(self, trail: Trail, principal: Principal) -> Instance | None:
        if trail.proof is None or not isinstance(principal, Agent):
            return None
        known = self.instances.find(principal.id, trail.proof.jkt)
        if known is not None:
            return known
        id = hashlib.sha256(f"{principal.id}\x00{trail.proof.jkt}".encode()).hexdigest()[:32]
        return Instance(id, principal.id, trail.proof.jkt, trail.attested.attester, trail.at, 0)

    async def _release(
        self,
        trail: Trail,
        principal: Principal,
        created: bool,
        instance: Instance | None,
        minted: Minted,
    ) -> Granted:
        decision = trail.decision()
        new_agent = principal if created and isinstance(principal, Agent) else None
        known_agent = self.directory.agents.get(principal.id)
        extended = self.instances.extended(instance, minted.claims.expires_at) if instance is not None else None

        def change(session: Session) -> None:
            if new_agent is not None:
                _check_unmoved(session, new_agent.id, known_agent, decision["set"])
                agents.store(session, new_agent, now=trail.at)
            if extended is not None:
                instances.store(session, extended)

        def landed(_result: object) -> None:
            if new_agent is not None:
                self.directory.agents[new_agent.id] = new_agent
            if extended is not None:
                self.instances.remember(extended)

        issued = trail.event(
            Kind.TOKEN_ISSUED,
            decision,
            who={"instance": minted.claims.instance or ""},
            what={
                "token": hashlib.sha256(minted.token.encode()).hexdigest(),
                "token_id": minted.claims.jti,
                "expires_at_ms": minted.claims.expires_at * 1000,
            },
        )
        events = (issued,) if new_agent is None else (trail.enrolment(new_agent), issued)
        needed = new_agent is not None or extended is not None
        step = Step(events, trail.claims, change, landed) if needed else Step(events, trail.claims)
        receipt = await self.audit.record(step)
        token_type = "Bearer" if trail.proof is None else "DPoP"
        return Granted(minted.token, token_type, self.rules.lifetime_s, receipt.indices[-1])

    async def _record_refusal(self, trail: Trail, attester: Attester, refusal: BrokerError) -> None:
        if trail.enrolled is None:  # refused before this was asked; the record says whose evidence it was
            with suppress(BrokerError):
                self._principal(trail, attester)
        decision: dict[str, object] = {
            "set": self.policies.current.hash,
            **trail.decision(),
            "outcome": "deny",
            "reason": refusal.reason,
        }
        event = trail.event(Kind.TOKEN_REFUSED, decision, posture={"why": refusal.detail})
        try:
            await self.audit.record(Step((event,), trail.claims))
        except ClaimTaken:  # held by somebody else already, and durable there
            await self.audit.record(Step((event,)))


def _check_unmoved(session: Session, id: str, known: Agent | None, decided_by: object) -> None:
    """Inside the durable step: the agent is stored as it was known, and the set that decided is in force.

    Raises:
        _Moved: another step came first; deciding anew sees what it did.
    """
    row, in_force = session.get(AgentRow, id), session.get(ActivePolicyRow, 1)
    stored = agents.load(row) if row is not None else None
    if stored != known or in_force is None or in_force.hash != decided_by:
        raise _Moved("The rules or the agent changed meanwhile.")


def _from_rule(enrolled: Enrolled, *, status: str = "active") -> Agent:
    return Agent(enrolled.agent, "agent", enrolled.owner, enrolled.purpose, enrolled.ceiling, status, enrolled.fixed_by)


def _already_used(key: str, grant_type: str) -> Refused:
    if key.startswith("proof:"):
        return InvalidDpopProof(
            "This DPoP proof was used before. Make a new one for every request.", reason="replayed_proof"
        )
    if key.startswith("evidence:"):
        return InvalidRequest(
            "This evidence is bound to another key, or was used already. Get new evidence for this instance.",
            reason="replayed_evidence",
        )
    refusal = InvalidClient if grant_type == CLIENT_CREDENTIALS else InvalidRequest  # RFC 7521 §4.2.1, RFC 8693 §2.2.2
    return refusal("This assertion was used before. Sign a new one with a new jti.", reason="replayed_evidence")


def _why_not(decision: Decision) -> str:
    if decision.policies:
        return (
            f"Policy refuses this token: {', '.join(decision.policies)}. Ask an admin, or see `broker policy explain`."
        )
    return "No policy permits this token for this principal. An admin can add one; see `broker policy explain`."
