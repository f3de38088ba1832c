"""Builds every part and puts them together."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Engine

from broker import premises
from broker.assembly.broker import Broker
from broker.assembly.opening import open_database, open_keys
from broker.audit.log import AuditLog
from broker.audit.log_keys import LogKeys
from broker.audit.log_rotation import LogRotation
from broker.audit.published import PublishedCheckpoint
from broker.audit.refusals import RefusalCounter
from broker.audit.seals import Seals
from broker.audit.tree import AuditTree
from broker.audit.untold import Untold
from broker.changes.proposals import Changes
from broker.clock import Clock, SystemClock
from broker.db import claims
from broker.db.engine import begin_to_write, is_empty, is_server
from broker.db.lock import FolderLock
from broker.db.reserve import DiskReserve
from broker.db.writer import no_probe
from broker.entropy import Entropy, new_id, system_entropy
from broker.gateway.calls import CallRules, Gateway
from broker.gateway.endpoints import Catalogue
from broker.gateway.upstream import ProviderKey, ProviderKeys
from broker.gateway.wires import WIRES
from broker.identity.attesters.oidc import OidcVerifier
from broker.identity.directory import Directory
from broker.identity.instances import Instances
from broker.keys import KeyRing
from broker.outbound import Outbound
from broker.policy.active import ActivePolicies
from broker.policy.prepared import PreparedCache
from broker.settings import Settings
from broker.tokens.bearer import TokenVerifier
from broker.tokens.client_auth import Authenticator
from broker.tokens.exchange import TokenIssuer
from broker.tokens.issue import Audience, TokenRules
from broker.tokens.operate import OperatorGate
from broker.tokens.replay import ReplayMemory
from broker.tokens.sign_in import SignIn
from broker.tokens.signing_keys import Schedule, SigningKeys

_DAY_S = 86_400.0
_FETCHES = 32
"""Connections to issuers at once."""


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
        engine = open_database(settings, entropy)
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
    tree = AuditTree(engine, log_keys, Seals(keys.tag_key), PublishedCheckpoint(settings.storage.data_dir))
    schedule = Schedule(settings.keys.algorithm, settings.keys.rotation_days * _DAY_S, settings.tokens.lifetime_s)
    out = outbound or Outbound(settings.outgoing.exceptions(), extra_ca_file=settings.outgoing.ca_file)
    # Doors apart: calls that wait for providers take no connection from the fetching of issuers' keys.
    fetching = out.apart(_FETCHES)
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
