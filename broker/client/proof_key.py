"""The keys an agent holds: the one that this process proves its requests with, and registered ones."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.errors import ConfigurationError, Malformed
from broker.formats.jwk import PrivateKey, algorithm_of

_process_key: PrivateKey | None = None
_process_key_lock = Lock()


def process_key() -> PrivateKey:
    """This process's own key: made at first use, never written anywhere.

    All clients of a process share it, because a platform's token is bound to the first key that used it.
    Processes forked after its first use share it too, and so may use one token file.
    """
    global _process_key  # noqa: PLW0603  it is the process's, by intent
    with _process_key_lock:
        if _process_key is None:
            _process_key = generate_private_key(SECP256R1())
        return _process_key


def load_key(key: PrivateKey | Path) -> PrivateKey:
    """A key as it is given, or read from a PEM file.

    Raises:
        ConfigurationError: the file cannot be read, or the key is neither P-256 nor Ed25519.
    """
    if isinstance(key, Path):
        path = key
        try:
            loaded = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{path}: no private key in PEM, without a password, could be read.") from error
    else:
        path, loaded = None, key
    named = "The key" if path is None else f"{path}: the key"
    if not isinstance(loaded, EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ConfigurationError(f"{named} must be Ed25519 or EC on P-256; make a new one and register it.")
    try:
        algorithm_of(loaded)
    except Malformed as error:
        raise ConfigurationError(f"{named} must be Ed25519 or EC on P-256; make a new one and register it.") from error
    return loaded
