"""The one place that builds the parts and puts them together. Production and tests differ only in the arguments."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine
from sqlmodel import Session

from broker import database_url, premises
from broker.audit import schema, trail
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.log_keys import LogKeys
from broker.audit.log_rotation import LogRotation
from broker.audit.published import PublishedCheckpoint
from broker.audit.refusals import RefusalCounter
from broker.audit.tree import AuditTree
from broker.audit.untold import Untold
from broker.changes.proposals import Changes
from broker.clock import Clock, SystemClock
from broker.db import claims
from broker.db.engine import begin_to_write, is_empty, is_server, open_engine, open_server, reading
from broker.db.lock import FolderLock
from broker.db.reserve import DiskReserve
from broker.db.sqlite import sqlite_url
from broker.db.writer import no_probe
from broker.entropy import Entropy, new_id, new_id_in_order, system_entropy
from broker.errors import ConfigurationError, Malformed
from broker.gateway.calls import CallRules, Gateway
from broker.gateway.endpoints import Catalogue
from broker.gateway.upstream import ProviderKey, ProviderKeys
from broker.gateway.wires import WIRES
from broker.identity import attesters
from broker.identity.attesters.oidc import OidcVerifier
from broker.identity.directory import Directory
from broker.identity.instances import Instances
from broker.keys import KeyRing, Unlock
from broker.outbound import Outbound
from broker.policy import active
from broker.policy.active import ActivePolicies
from broker.policy.prepared import PreparedCache
from broker.policy.shipped import shipped
from broker.settings import Settings
from broker.tokens.bearer import TokenVerifier
from broker.tokens.client_auth import Authenticator
from broker.tokens.exchange import TokenIssuer
from broker.tokens.issue import Audience, TokenRules
from broker.tokens.operate import OperatorGate
from broker.tokens.replay import ReplayMemory
from broker.tokens.sign_in import SignIn
from broker.tokens.signing_keys import Schedule, SigningKeys

log = logging.getLogger(__name__)

T = TypeVar("T")

_DAY_S = 86_400.0
_FETCHES = 32
"""Connections to issuers at once."""


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
                return active.activate(session, checked, expected=None, by="broker", now=now)

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
        return Event(kind, agent="broker", at=now, request_id=f"{kind}-{int(now)}", remedy=remedy)


def assemble(
    settings: Settings,
    *,
    prepare: Callable[[Engine], None],
    clock: Clock | None = None,
    entropy: Entropy = system_entropy,
    outbound: Outbound | None = None,
    probe: Callable[[str], None] = no_probe,
) -> Broker:
    """Builds the broker on the data folder, which it holds from then on.

    Args:
        settings: how it runs.
        prepare: brings the database to the newest schema (`broker.migrations.upgrade`).
        clock, entropy, outbound: the doors.
        probe: a test seam at the commit points, see `broker.db.writer`.

    Raises:
        StoreLocked: another process holds the data folder.
        ConfigurationError, PolicyInvalid: what is stored or configured cannot be used. Fails closed.
    """
    clock = clock or SystemClock()
    premises.check(settings, clock.now())
    provider_keys = ProviderKeys(
        {
            name: ProviderKey(value.get_secret_value(), frozenset(settings.secrets[name].origins))
            for name, value in settings.secret_values().items()
        }
    )
    data_dir = settings.storage.data_dir
    lock = FolderLock(data_dir)
    engine: Engine | None = None
    try:
        engine = _open_database(settings, entropy)
        keys = open_keys(settings, entropy, make=is_empty(engine))
        prepare(engine)
        begin_to_write(engine, new_id(entropy))
        audit = AuditLog(
            engine,
            tag_key=keys.tag_key,
            entropy=entropy,
            reserve=None if is_server(engine) else DiskReserve(data_dir, settings.storage.reserve_mb * 1024 * 1024),
            timeout_s=settings.storage.commit_timeout_s,
            probe=probe,
        )
        if audit.winding_down:
            raise settings.refusal(
                "storage.reserve_mb",
                f"{data_dir} needs {2 * settings.storage.reserve_mb} MB of free disk to start, twice this; make room, "
                "or choose another storage.data_dir",
            )
        return _build(settings, clock, entropy, engine, lock, keys, audit, provider_keys, outbound)
    except BaseException:
        if engine is not None:
            engine.dispose()
        lock.release()
        raise


def _open_database(settings: Settings, entropy: Entropy) -> Engine:
    if settings.storage.database is None:
        return open_engine(sqlite_url(settings.storage.data_dir))
    place = database_url.keywords(settings.storage.database)
    return open_server(place, settings.database_password(), new_id(entropy))


def _build(
    settings: Settings,
    clock: Clock,
    entropy: Entropy,
    engine: Engine,
    lock: FolderLock,
    keys: KeyRing,
    audit: AuditLog,
    provider_keys: ProviderKeys,
    outbound: Outbound | None,
) -> Broker:
    rules = _token_rules(settings)
    log_keys = LogKeys(keys.log_signers, keys.first_log_signer)
    tree = AuditTree(engine, log_keys, PublishedCheckpoint(settings.storage.data_dir))
    schedule = Schedule(settings.keys.algorithm, settings.keys.rotation_days * _DAY_S, settings.tokens.lifetime_s)
    out = outbound or Outbound(settings.outgoing.exceptions(), extra_ca_file=settings.outgoing.ca_file)
    # Doors apart: calls that wait for providers take no connection from the fetching of issuers' keys.
    fetching = outbound or Outbound(
        settings.outgoing.exceptions(), extra_ca_file=settings.outgoing.ca_file, max_connections=_FETCHES
    )
    directory, instances, policies = Directory(engine), Instances(engine), ActivePolicies(engine)
    catalogue, prepared, refusals = Catalogue(engine), PreparedCache(), RefusalCounter()
    replay = ReplayMemory(claims.unexpired(engine, clock.now()))
    audiences = (
        (settings.issuer, rules.token_endpoint)
        if settings.tokens.accept_token_endpoint_audience
        else (settings.issuer,)
    )
    issuers = OidcVerifier(fetching, clock)
    authenticator = Authenticator(directory, issuers, clock, audiences)
    verifier = TokenVerifier(rules, keys, directory, replay, clock)
    limits = settings.gateway
    bounds = CallRules(limits.max_body_bytes, limits.connect_timeout_s, limits.first_byte_timeout_s)
    return Broker(
        settings=settings,
        clock=clock,
        entropy=entropy,
        engine=engine,
        lock=lock,
        keys=keys,
        audit=audit,
        tree=tree,
        untold=Untold(settings.storage.data_dir),
        refusals=refusals,
        directory=directory,
        instances=instances,
        policies=policies,
        rules=rules,
        tokens=TokenIssuer(
            rules,
            keys,
            authenticator,
            directory,
            instances,
            policies,
            prepared,
            replay,
            audit,
            refusals,
            clock,
            entropy,
        ),
        sign_in=SignIn(rules, directory, replay, audit, refusals, clock, entropy),
        verifier=verifier,
        gateway=Gateway(bounds, verifier, policies, prepared, catalogue, provider_keys, out, audit, refusals, clock),
        changes=Changes(engine, directory, catalogue, policies, provider_keys, rules, audit, clock, entropy),
        operators=OperatorGate(rules, verifier, policies, prepared, audit, refusals, clock),
        outbound=out,
        fetching=fetching,
        issuers=issuers,
        signing_keys=SigningKeys(engine, keys, audit, schedule, clock, entropy),
        log_keys=log_keys,
        log_rotation=LogRotation(
            engine, keys, log_keys, tree, audit, clock, entropy, overlap_s=settings.keys.log_overlap_days * _DAY_S
        ),
    )


def open_keys(settings: Settings, entropy: Entropy, *, make: bool, folder: Path | None = None) -> KeyRing:
    """The broker's own keys, opened as the configuration says.

    Args:
        settings: where they are, and what opens them.
        entropy: makes new ones.
        make: whether missing ones may be made.
        folder: where they are if not in the data folder.

    Raises:
        ConfigurationError: they are missing, not the owner's alone, or do not open.
    """
    return KeyRing(
        folder or settings.storage.data_dir / "keys",
        entropy,
        log_origin=settings.issuer.partition("://")[2] + "/log",  # without a scheme (C2SP tlog-checkpoint)
        make=make,
        unlock=unlock(settings),
        algorithm=settings.keys.algorithm,
    )


def unlock(settings: Settings) -> Unlock | None:
    """What opens the sealed keys, as the configuration names it; None if it names nothing.

    Raises:
        ConfigurationError: it cannot be read, or is too short.
    """
    found = settings.sealing()
    if found is None:
        return None
    kind, secret = found
    try:
        return Unlock(kind, secret.get_secret_value())
    except Malformed as error:
        raise settings.refusal("keys", error.detail) from error


def _token_rules(settings: Settings) -> TokenRules:
    issuer = settings.issuer
    gateways = [Audience(f"{issuer}/{wire}/v1", "gateway") for wire in WIRES]
    audiences = (*gateways, Audience(f"{issuer}/api/v1", "api"))
    return TokenRules(
        issuer=issuer,
        lifetime_s=settings.tokens.lifetime_s,
        dpop_window_s=settings.tokens.dpop_window_s,
        require_dpop_nonce=settings.tokens.require_dpop_nonce,
        audiences={audience.uri: audience for audience in audiences},
        default_audience=gateways[0].uri,
    )
