"""`Broker`: all parts together, from the first record of a run to its last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Engine
from sqlmodel import Session

from broker.audit import schema, trail
from broker.audit.events import BROKER, Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.log_keys import LogKeys
from broker.audit.log_rotation import LogRotation
from broker.audit.refusals import RefusalCounter
from broker.audit.tree import AuditTree
from broker.audit.untold import Untold
from broker.changes.proposals import Changes
from broker.clock import Clock
from broker.db.engine import reading
from broker.db.lock import FolderLock
from broker.entropy import Entropy, new_id_in_order
from broker.errors import ConfigurationError, ProofInvalid, Unavailable
from broker.gateway.calls import Gateway
from broker.identity import attesters
from broker.identity.attesters.oidc import OidcVerifier
from broker.identity.directory import Directory
from broker.identity.instances import Instances
from broker.keys import KeyRing
from broker.outbound import Outbound
from broker.policy import active
from broker.policy.active import ActivePolicies
from broker.policy.shipped import shipped
from broker.settings import Settings
from broker.tokens.bearer import TokenVerifier
from broker.tokens.exchange import TokenIssuer
from broker.tokens.issue import TokenRules
from broker.tokens.operate import OperatorGate
from broker.tokens.sign_in import SignIn
from broker.tokens.signing_keys import SigningKeys

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Broker:
    """The whole broker, ready to answer. `close` it at the end."""

    settings: Settings
    clock: Clock
    entropy: Entropy
    engine: Engine
    lock: FolderLock
    keys: KeyRing
    audit: AuditLog
    tree: AuditTree
    untold: Untold
    refusals: RefusalCounter
    directory: Directory
    instances: Instances
    policies: ActivePolicies
    rules: TokenRules
    tokens: TokenIssuer
    sign_in: SignIn
    verifier: TokenVerifier
    gateway: Gateway
    changes: Changes
    operators: OperatorGate
    outbound: Outbound
    fetching: Outbound
    issuers: OidcVerifier
    signing_keys: SigningKeys
    log_keys: LogKeys
    log_rotation: LogRotation

    @property
    def log_key(self) -> str:
        """The log's public key as auditors pin it now (C2SP signed-note verifier key)."""
        return self.log_keys.vkey

    def new_request_id(self) -> str:
        """Names one request in every record that it leaves. Ids of one time share a page of the index."""
        return new_id_in_order(self.entropy, self.clock.now())

    async def read(self, query: Callable[[Session], T]) -> T:
        """Runs a query off the loop, in a session that is closed at the end."""

        def run() -> T:
            with reading(self.engine) as session:
                return query(session)

        return await asyncio.to_thread(run)

    async def start(self, *, accept_lost_records: bool = False) -> None:
        """What is recorded before the first request: what the last run left open, the shipped policies, the start.

        Args:
            accept_lost_records: go on although records that were published are gone; the start's record says so.

        Raises:
            ConfigurationError, ProofInvalid: what is stored is not what was published. Fails closed.
        """
        self.log_rotation.load()
        await asyncio.to_thread(self._check_continues, accept_lost_records)
        await asyncio.to_thread(self.log_rotation.tidy)
        if not self.keys.seals_begun:
            await asyncio.to_thread(self.tree.adopt)
            self.keys.mark_seals_begun()
        await asyncio.to_thread(self.tree.integrate)
        now = self.clock.now()
        for index, agent, request_id, model in await self.read(trail.open_calls):
            closing = Event(
                Kind.CALL_ABANDONED,
                agent=agent,
                at=now,
                request_id=request_id,
                what={"action": "call", "model": model},
                remedy={"closes": index, "why": "the broker stopped before the call ended"},
            )
            await self.audit.record(Step((closing,), closing=True))
        if not self.policies.reload():
            checked = active.check(shipped())

            def change(session: Session) -> int:
                attesters.store(session, attesters.REGISTERED_KEYS)
                return active.activate(session, checked, expected=None, by=BROKER, now=now)

            remedy = {
                "set": checked.policies.hash,
                "cases": checked.cases_run,
                "why": "the shipped policies, first start",
            }
            receipt = await self.audit.record(Step((self._own(Kind.CHANGE_ACTIVATED, now, remedy),), change=change))
            self.policies.use(checked.policies, checked.source, int(str(receipt.result)))
            self.directory.attesters[attesters.REGISTERED_KEYS.name] = attesters.REGISTERED_KEYS
        await self.signing_keys.start()
        remedy = {"policies": self.policies.current.hash, "log_key": self.log_key, "schemas": schema.digest()}
        await self.audit.record(Step((self._own(Kind.BROKER_STARTED, now, remedy | self.untold.remedy()),)))
        await asyncio.to_thread(self.tree.integrate)
        self.keys.mark_log_begun()
        self.untold.told()

    async def close(self) -> None:
        """Records the end, brings the tree up to it, and lets go of everything. Nothing is answered any more."""
        await self.gateway.finish()
        await self.audit.settle_owed()
        now = self.clock.now()
        events = (*self.refusals.drain(now, everything=True), self._own(Kind.BROKER_STOPPED, now, {}))
        await self.audit.close_later(Step(events))
        self.audit.close()
        try:
            await asyncio.to_thread(self.tree.integrate)
        except (ProofInvalid, Unavailable) as error:
            log.error(
                "the last records are not under a checkpoint: %s; the next start brings them under one, or says what "
                "to restore",
                error.detail,
            )
        finally:
            await self.outbound.close()
            await self.fetching.close()
            self.engine.dispose()
            self.lock.release()

    def _check_continues(self, accept_lost_records: bool) -> None:
        """Makes sure that the log goes on where it was published, or that the start's record will tell of the loss."""
        folder = self.settings.storage.data_dir
        self.tree.check_key()
        if not self.keys.log_begun:
            return
        if self.audit.size == 0:
            raise ConfigurationError(
                f"{folder}: the log under these keys has begun, and the database holds none of it; restore the "
                "database, or begin anew in another folder"
            )
        lost = self.tree.lost()
        if lost is not None and not accept_lost_records:
            raise ConfigurationError(
                f"{folder}: {lost}: an older database was put here, or a copy made by hand. Put the newest one back. "
                "If there is none, `broker serve --accept-lost-records` goes on from here once, and records it: "
                "whoever kept a newer checkpoint will find that this log contradicts it"
            )
        if lost is None and accept_lost_records:
            raise ConfigurationError(f"{folder}: no records are lost here; start without --accept-lost-records")
        if lost is not None:
            self.untold.add({"lost": lost.remedy()})

    def _own(self, kind: Kind, now: float, remedy: dict[str, object]) -> Event:
        """An event of the broker's own."""
        return Event(kind, agent=BROKER, at=now, request_id=f"{kind}-{int(now)}", remedy=remedy)
