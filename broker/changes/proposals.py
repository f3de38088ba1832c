"""From plan to effect: propose, approve, activate in one durable step, contain at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, col, select, update

from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Receipt, Step
from broker.changes import effects, reach, second_person
from broker.changes.account import account
from broker.changes.plan import Difference, Known, Plan, make
from broker.changes.reach import Reach
from broker.clock import Clock
from broker.db.engine import reading
from broker.entropy import Entropy
from broker.errors import (
    AccessDenied,
    CasesFailed,
    Conflict,
    ManifestInvalid,
    NotFound,
    PolicyInvalid,
    Unavailable,
    Unconfirmed,
)
from broker.gateway.endpoints import Catalogue
from broker.gateway.upstream import ProviderKeys
from broker.identity import operators
from broker.identity.directory import Directory
from broker.identity.operators import Operator
from broker.policy.active import ActivePolicies, one_at_a_time
from broker.policy.decided import Decided
from broker.tokens.issue import TokenRules

_MAX_SHOWN = 2_000
_NOT_WAITING = "No such proposal waits for approval."
_ACTIONS = {Kind.AGENT_CONTAINED: "contain", Kind.LINK_ISSUED: "link"}


class ProposalRow(SQLModel, table=True):
    """A change that waits for a second admin, or did. `document` is the manifest's JSON text."""

    __tablename__ = "proposals"

    id: str = Field(primary_key=True)
    document: str
    proposed_by: str
    proposed_at: float
    status: str
    decided_by: str

    @property
    def manifest(self) -> dict[str, Any]:
        """What was proposed, as it came."""
        document: dict[str, Any] = orjson.loads(self.document)
        return document


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Args:
        id: its identity.
        status: "unchanged", "checked" (dry run), "pending" (waits for a second admin) or "activated".
        differences: what changes.
        links: one-time sign-in codes of new operators, by name; shown once.
        record: the index of its record, if there is one.
        reach: what the differences come to.
    """

    id: str
    status: str
    differences: tuple[Difference, ...]
    links: dict[str, str]
    record: int | None
    reach: Reach = field(default_factory=Reach)


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that a change needs, put together by `broker.assembly`."""

    engine: Engine
    directory: Directory
    catalogue: Catalogue
    policies: ActivePolicies
    provider_keys: ProviderKeys
    rules: TokenRules
    audit: AuditLog
    clock: Clock
    entropy: Entropy

    async def propose(self, document: object, *, by: Operator, request_id: str, dry_run: bool = False) -> Outcome:
        """Checks a manifest and activates it, or keeps it for a second admin to approve.

        Raises:
            ManifestInvalid, PolicyInvalid, CasesFailed: recorded; nothing was changed.
            Conflict: something it touches changed meanwhile; recorded.
        """
        async with self._recording_refusals(by, request_id, but_not=dry_run):
            others = second_person.others(self.policies.current, self.directory.operators.values(), by)
            plan = await self._plan(document, by, alone=not others)
            if not plan.differences:
                return Outcome(plan.id, "unchanged", (), {}, None)
            if dry_run:
                return Outcome(plan.id, "checked", plan.differences, {}, None, reach.of(plan.differences, plan, others))
            if plan.widens and others:
                return await self._wait(plan, others, by=by, request_id=request_id)
            return await self._activate(plan, by=by, approved_by=None, request_id=request_id)

    async def approve(self, id: str, *, by: Operator, request_id: str) -> Outcome:
        """Approves and activates what somebody else proposed.

        Raises:
            NotFound: no such proposal waits.
            AccessDenied: the proposer cannot approve it; recorded.
            ManifestInvalid, PolicyInvalid, CasesFailed: it would not be taken any more; recorded.
            Conflict: what it touches is not as it was when it was proposed, or its proposer may not propose any more;
                recorded.
        """
        row = await asyncio.to_thread(self._row, id)
        if row.status != "pending":
            raise NotFound(_NOT_WAITING)
        async with self._recording_refusals(by, request_id):
            if row.proposed_by == by.name:
                raise AccessDenied("A second admin must approve this change: you proposed it.", reason="own_proposal")
            proposer = self._proposer(row)
            if proposer is None:
                raise Conflict(f"{row.proposed_by}, who proposed this, may not propose any more. Propose it yourself.")
            plan = await self._plan(row.manifest, by, alone=False)
            if plan.id != id:
                raise Conflict("What this touches changed since it was proposed. Look at it, and propose it again.")
            return await self._activate(plan, by=proposer, approved_by=by, request_id=request_id)

    async def preview(self, id: str) -> tuple[ProposalRow, Plan | None]:
        """A proposal, and what approving it would do now; None if it cannot be approved any more.

        Raises:
            NotFound: there never was such a proposal.
        """
        row = await asyncio.to_thread(self._row, id)
        if row.status != "pending" or self._proposer(row) is None:
            return row, None
        try:
            plan = await self._plan(row.manifest, None, alone=False)
        except (ManifestInvalid, CasesFailed, PolicyInvalid):
            return row, None
        return row, plan if plan.id == id else None

    async def withdraw(self, id: str, *, by: Operator, request_id: str) -> None:
        """Refuses or withdraws a proposal.

        Raises:
            NotFound: no such proposal waits.
        """
        event = self._event(Kind.CHANGE_REFUSED, by, request_id, {"change": id, "reason": "withdrawn"})
        await self._record(Step((event,), change=lambda session: _close(session, id, "withdrawn", by.name)))

    async def contain(
        self, section: str, name: str, status: str, why: str, *, by: Operator, request_id: str
    ) -> Outcome:
        """Suspends, revokes or disables one agent, attester, endpoint or operator at once; needs one person.

        What an operator proposed, and nobody has approved, is withdrawn with that.

        Raises:
            NotFound: there is no such thing.
            ManifestInvalid: the status would not narrow.
        """
        allowed = effects.NARROWER.get(section, ())
        if status not in allowed:
            raise ManifestInvalid(
                f"`status` must be one of {', '.join(allowed)}; giving rights back is a change to propose."
            )
        before = effects.describe(self.directory, self.catalogue, section, name)
        difference = Difference(section, name, before, {**before, "status": status})
        if before["status"] == status:
            return Outcome("", "unchanged", (), {}, None)
        if before["status"] == "revoked":
            raise ManifestInvalid(f"{name} is revoked, which is narrower; giving rights back is a change to propose.")
        told = {"section": section, "name": name, "before": before["status"], "status": status, "why": why}
        asked = second_person.asked(self.policies.current, by, "contain")
        event = self._event(Kind.AGENT_CONTAINED, by, request_id, told, asked)

        def change(session: Session) -> effects.Applied:
            applied = effects.contain(session, section, name, status, now=event.at)
            _withdraw_of_the_stopped(session, applied, by.name)
            return applied

        receipt = await self._record(Step((event,), change=change, landed=self._install))
        return Outcome("", "activated", (difference,), {}, receipt.indices[0], reach.of((difference,)))

    async def _plan(self, document: object, by: Operator | None, *, alone: bool) -> Plan:
        """The plan of a manifest, one that `by` could take back, and that makes nobody another person."""
        known = Known.now(self.directory, self.catalogue, self.policies)
        plan = await one_at_a_time(lambda: make(document, known, self.provider_keys))
        if plan.checked is not None and by is not None:
            people = {**known.operators, **{operator.name: operator for operator in plan.values.operators}}
            second_person.leaves_a_way_back(plan.checked.policies, people, by, self.rules, alone=alone)
        if not alone:
            second_person.names_its_keys(plan)
        return plan

    def _proposer(self, row: ProposalRow) -> Operator | None:
        """Who proposed something, if that person may still propose."""
        operator = self.directory.operators.get(row.proposed_by)
        may = operator is not None and second_person.may(self.policies.current, operator, "propose")
        return operator if operator is not None and operator.status == "active" and may else None

    async def _record(self, step: Step) -> Receipt:
        """Records a change. One that is not confirmed in time may take effect all the same, and the caller must know.

        Raises:
            Unavailable: says so.
        """
        try:
            return await self.audit.record(step)
        except Unconfirmed as error:
            raise Unavailable(
                "The change was not confirmed in time, and may have taken effect. Before you repeat it, look at it: "
                "`broker apply list`, `broker apply show`, `broker audit search`."
            ) from error

    @asynccontextmanager
    async def _recording_refusals(self, by: Operator, request_id: str, *, but_not: bool = False) -> AsyncIterator[None]:
        """Records why a change is refused before that is raised."""
        try:
            yield
        except (ManifestInvalid, CasesFailed, PolicyInvalid, Conflict, AccessDenied) as error:
            if not but_not:
                refused: dict[str, object] = {"reason": error.reason, "why": error.detail[:_MAX_SHOWN]}
                await self.audit.record(Step((self._event(Kind.CHANGE_REFUSED, by, request_id, refused),)))
            raise

    def _row(self, id: str) -> ProposalRow:
        with reading(self.engine) as session:
            row = session.get(ProposalRow, id)
        if row is None:
            raise NotFound("There is no such proposal.")
        return row

    async def _wait(self, plan: Plan, others: frozenset[str], *, by: Operator, request_id: str) -> Outcome:
        """Keeps a plan for a second admin."""
        row = ProposalRow(
            id=plan.id,
            document=orjson.dumps(plan.manifest.document).decode(),
            proposed_by=by.name,
            proposed_at=self.clock.now(),
            status="pending",
            decided_by="",
        )
        asked = second_person.asked(self.policies.current, by, "propose")
        event = self._event(Kind.CHANGE_PROPOSED, by, request_id, account(plan), asked)
        receipt = await self._record(Step((event,), change=lambda session: _keep(session, row)))
        sum_of_it = reach.of(plan.differences, plan, others)
        return Outcome(plan.id, "pending", plan.differences, {}, receipt.indices[0], sum_of_it)

    async def _activate(self, plan: Plan, *, by: Operator, approved_by: Operator | None, request_id: str) -> Outcome:
        asked = second_person.asked(self.policies.current, approved_by or by, "approve" if approved_by else "propose")
        event = self._event(
            Kind.CHANGE_ACTIVATED,
            by,
            request_id,
            {**account(plan), "approved_by": approved_by.name if approved_by else ""},
            asked,
        )
        links = tuple(
            self._event(
                Kind.LINK_ISSUED,
                by,
                request_id,
                {"operator": name, "lifetime_s": operators.LINK_LIFETIME_S, "key": thumbprint, "change": plan.id},
            )
            for name, thumbprint in plan.links.items()
        )

        def change(session: Session) -> effects.Applied:
            if approved_by is not None:
                _close(session, plan.id, "activated", approved_by.name)
            applied = effects.apply(session, plan, by=by.name, now=event.at, entropy=self.entropy)
            _withdraw_of_the_stopped(session, applied, by.name)
            return applied

        receipt = await self._record(Step((event, *links), change=change, landed=self._install))
        applied = receipt.result
        assert isinstance(applied, effects.Applied)
        sum_of_it = reach.of(plan.differences, plan)
        return Outcome(plan.id, "activated", plan.differences, dict(applied.links), receipt.indices[0], sum_of_it)

    def _install(self, applied: object) -> None:
        """Takes what is durable into use."""
        effects.install(applied, self.directory, self.catalogue, self.policies)

    def _event(
        self, kind: Kind, by: Operator, request_id: str, remedy: dict[str, object], asked: Decided | None = None
    ) -> Event:
        return Event(
            kind,
            agent=by.id,
            at=self.clock.now(),
            request_id=request_id,
            who={"agent": by.id, "roles": list(by.roles)},
            what={"action": _ACTIONS.get(kind, "change")},
            decision={
                "outcome": "deny" if kind is Kind.CHANGE_REFUSED else "permit",
                "set": self.policies.current.hash,
                **({"operator": asked.told} if asked is not None else {}),
            },
            remedy=remedy,
            inputs=asked.inputs if asked is not None else (),
        )


def proposals(session: Session) -> list[ProposalRow]:
    """What was proposed for a second admin, newest first."""
    return list(session.exec(select(ProposalRow).order_by(col(ProposalRow.proposed_at).desc()).limit(200)))


def _keep(session: Session, row: ProposalRow) -> None:
    known = session.get(ProposalRow, row.id)
    if known is not None and known.status == "pending":
        raise Conflict("This change is proposed already and waits for a second admin.")
    session.merge(row)


def _close(session: Session, id: str, status: str, by: str) -> None:
    """One statement, so that a proposal is decided once."""
    statement = (
        update(ProposalRow)
        .where(col(ProposalRow.id) == id, col(ProposalRow.status) == "pending")
        .values(status=status, decided_by=by)
        .returning(col(ProposalRow.id))
    )
    if session.exec(statement).scalar_one_or_none() is None:
        raise NotFound(_NOT_WAITING)


def _withdraw_of_the_stopped(session: Session, applied: effects.Applied, by: str) -> None:
    """Closes what operators proposed who are stopped with this change: it must not be approved on their word."""
    stopped = [operator.name for operator in applied.values.operators if operator.status != "active"]
    if stopped:
        session.exec(
            update(ProposalRow)
            .where(col(ProposalRow.proposed_by).in_(stopped), col(ProposalRow.status) == "pending")
            .values(status="withdrawn", decided_by=by)
        )
