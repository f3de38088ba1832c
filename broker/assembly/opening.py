"""What the configuration names, opened: the database, and the broker's own keys."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine

from broker import database_url
from broker.db.engine import open_engine, open_server
from broker.db.sqlite import sqlite_url
from broker.entropy import Entropy, new_id
from broker.errors import Malformed
from broker.keys import KeyRing, Unlock
from broker.settings import Settings


def open_database(settings: Settings, entropy: Entropy) -> Engine:
    """The database that the configuration names: the data folder's own, or a server.

    Raises:
        ConfigurationError: it cannot be reached, or is not one that the broker can use.
    """
    if settings.storage.database is None:
        return open_engine(sqlite_url(settings.storage.data_dir))
    place = database_url.keywords(settings.storage.database)
    return open_server(place, settings.database_password(), new_id(entropy))


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
