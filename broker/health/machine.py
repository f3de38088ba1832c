"""What can be seen on the machine without asking the broker: its configuration, its disk, its keys, its clock.

A check is a function from `Place` to findings; another one is another line in `CHECKS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from broker import database_url, premises
from broker.assembly import open_keys
from broker.clock import Clock
from broker.db.engine import looking
from broker.entropy import system_entropy
from broker.errors import BrokerError, ConfigurationError
from broker.health.finding import Finding, Status, worse
from broker.settings import Settings, load

_MB = 1024 * 1024
_DAY_S = 86_400
_SYNCS = 50
_BLOCK = bytes(4096)
_RECORDS_A_COMMIT = 256
_RENEW_DAYS = 30
_DRIFT_S = 0.5
_AHEAD_S = 2.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: settings that could be loaded, and a clock."""

    settings: Settings
    clock: Clock

    @property
    def folder(self) -> Path:
        """The data folder."""
        return self.settings.storage.data_dir

    @property
    def disk(self) -> Path:
        """The data folder, or what is there of the way to it before the first start."""
        return next(path for path in [self.folder.absolute(), *self.folder.absolute().parents] if path.is_dir())


Check = Callable[[Place], Iterator[Finding]]


def examine(config: Path | None, data_dir: Path | None, clock: Clock) -> tuple[Settings | None, list[Finding]]:
    """Looks at everything; settings are None where they cannot be loaded, and then nothing else can be looked at."""
    wall, steady = clock.now(), clock.monotonic()
    try:
        settings = load(config, storage__data_dir=data_dir)
    except ConfigurationError as error:
        return None, [Finding("configuration", "fail", error.detail, "mend it; the other checks go by it")]
    found = [Finding("configuration", "ok", str(settings.file) if settings.file is not None else "no file; defaults")]
    for check in CHECKS:
        found += check(Place(settings, clock))
    drift = abs((clock.now() - wall) - (clock.monotonic() - steady))
    advice = "something sets this machine's clock in steps; let one service steer it" if drift > _DRIFT_S else ""
    status = worse(drift, warn=_DRIFT_S, fail=float("inf"))
    found.append(Finding("clock, steady", status, f"{drift * 1000:.0f} ms off during this run", advice))
    return settings, found


def fits(place: Place) -> Iterator[Finding]:
    """What is checked before every start."""
    for name, check in premises.NAMED.items():
        try:
            check(place.settings, place.clock.now())
        except ConfigurationError as error:
            yield Finding(name, "fail", error.detail, "the next start is refused until this is mended")
        else:
            yield Finding(name, "ok", "fits")


def room(place: Place) -> Iterator[Finding]:
    """Disk room, against the reserve, where the records are on a disk of this machine."""
    if place.settings.storage.database is not None:
        return
    disk, reserve = os.statvfs(place.disk), place.settings.storage.reserve_mb
    free = disk.f_bavail * disk.f_frsize // _MB
    held = (place.folder / "reserve").exists()
    found = f"{free} MB free, {reserve} MB {'held back' if held else 'not held back yet'}"
    if free < (0 if held else 2 * reserve):
        yield Finding("disk room", "fail", found, f"make room: a start needs {2 * reserve} MB")
    elif free < 10 * reserve:
        yield Finding("disk room", "warn", found, "make room soon: when the disk is full, nothing is issued")
    else:
        yield Finding("disk room", "ok", found)


def sync(place: Place) -> Iterator[Finding]:
    """How long the disk takes to make 4 KiB durable: no commit of the embedded database can be faster."""
    if place.settings.storage.database is not None:
        return
    path, taken = place.disk / ".broker-doctor", list[float]()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        file = os.open(path, flags, 0o600)
        try:
            for _ in range(_SYNCS):
                begun = place.clock.monotonic()
                os.write(file, _BLOCK)
                os.fsync(file)
                taken.append(place.clock.monotonic() - begun)
        finally:
            os.close(file)
            path.unlink()
    except FileExistsError:
        yield Finding("disk sync", "warn", f"{path} is there", "another doctor runs, or one died: remove that file")
        return
    except OSError as error:
        yield Finding("disk sync", "fail", f"{path}: {error.strerror}", "the broker writes there too: mend it")
        return
    yield judged(median(taken), max(taken), place.settings.storage.commit_timeout_s)


def judged(middle_s: float, worst_s: float, timeout_s: float) -> Finding:
    """What durations of a sync mean: how many appends they allow, and whether a commit can be in time."""
    commits = 1 / max(middle_s, 1e-6)
    found = (
        f"median {middle_s * 1000:.2f} ms, worst {worst_s * 1000:.2f} ms: at most {commits:,.0f} commits a second, "
        f"{commits * _RECORDS_A_COMMIT:,.0f} appends where many come at once"
    )
    if middle_s >= timeout_s:
        return Finding("disk sync", "fail", found, f"no commit meets storage.commit_timeout_s = {timeout_s:g}")
    if worst_s >= timeout_s / 2:
        return Finding(
            "disk sync", "warn", found, f"some commits may miss storage.commit_timeout_s = {timeout_s:g}; a faster disk"
        )
    return Finding("disk sync", "ok", found)


def server(place: Place) -> Iterator[Finding]:
    """The database's server, where there is one: it can be reached, keeps what is committed, and how far it is."""
    url, taken, version = place.settings.storage.database, list[float](), ""
    if url is None:
        return
    try:
        with looking(database_url.keywords(url), place.settings.database_password()) as look:
            for _ in range(_SYNCS):
                begun = place.clock.monotonic()
                version = look()
                taken.append(place.clock.monotonic() - begun)
    except ConfigurationError as error:
        yield Finding("database", "fail", error.detail, "a start needs the server: mend it")
        return
    told = f"PostgreSQL {version} answers after {median(taken) * 1000:.2f} ms, at worst {max(taken) * 1000:.2f} ms"
    if max(taken) >= place.settings.storage.commit_timeout_s / 2:
        yield Finding("database", "warn", told, "some commits may miss storage.commit_timeout_s; a nearer server")
    else:
        yield Finding("database", "ok", f"{told}; watch the room on its disk there")


def keys(place: Place) -> Iterator[Finding]:
    """The keys are there and their owner's alone; how old the newest signing key is."""
    folder = place.folder / "keys"
    if not folder.exists():
        yield Finding("keys", "ok", "none yet; the first start makes them")
        return
    try:
        ring = open_keys(place.settings, system_entropy, make=False)
    except BrokerError as error:
        yield Finding("keys", "fail", error.detail, "restore them from the backup that the database comes from")
        return
    newest = max(path.stat().st_mtime for path in folder.glob("token-*"))
    days = int((place.clock.now() - newest) // _DAY_S)
    how = "sealed" if ring.sealed else "not sealed"
    told = f"the newest for tokens {days} days old; log {ring.log_origin}; {how} on the disk"
    yield Finding("keys", "ok", told)


def secrets(place: Place) -> Iterator[Finding]:
    """Each secret that the configuration names can be read, here and by this user."""
    if not place.settings.secrets:
        yield Finding("secrets", "ok", "the configuration names none")
        return
    try:
        place.settings.secret_values()
    except ConfigurationError as error:
        yield Finding("secrets", "fail", error.detail, "set it for the broker's process; this run looked at its own")
    else:
        yield Finding("secrets", "ok", "present: " + ", ".join(sorted(place.settings.secrets)))


def certificate(place: Place) -> Iterator[Finding]:
    """How long the TLS certificate is still good."""
    path = place.settings.server.tls_cert
    if path is None:
        behind = place.settings.server.trusted_proxy
        yield Finding("certificate", "ok", f"none here; {f'{behind} ends TLS' if behind else 'loopback alone'}")
        return
    try:
        ends = premises.served(path).not_valid_after_utc
    except (OSError, ValueError) as error:
        yield Finding("certificate", "fail", f"{path}: cannot be read: {error}", "write the chain in PEM")
        return
    days = int((ends - datetime.fromtimestamp(place.clock.now(), UTC)).total_seconds() // _DAY_S)
    status: Status = "fail" if days < 0 else "warn" if days < _RENEW_DAYS else "ok"
    yield Finding("certificate", status, f"{days} days left", "renew it" if status != "ok" else "")


def clock(place: Place) -> Iterator[Finding]:
    """The clock is not behind what was written already."""
    files = [path for path in place.folder.glob("*") if path.is_file()] if place.folder.is_dir() else []
    newest = max((path.stat().st_mtime for path in files), default=0.0)
    ahead = newest - place.clock.now()
    if ahead > _AHEAD_S:
        told = f"{ahead:.0f} s behind the newest file of the data folder"
        yield Finding("clock", "fail", told, "set this machine's clock right")
    else:
        yield Finding("clock", "ok", "not behind what was written")


CHECKS: tuple[Check, ...] = (fits, room, sync, server, keys, secrets, certificate, clock)
"""Every check of this machine, in the order in which it is shown."""
