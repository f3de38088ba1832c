"""The one door to private keys: a folder that only its owner can read, loaded once at start.

An attacker who can read it can issue tokens and sign checkpoints as this broker until the keys are replaced; the audit
log then shows no records for such tokens. Keys never leave this module but as objects that sign.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from broker.entropy import Entropy
from broker.errors import ConfigurationError
from broker.formats.jwk import PublicKey, parse_public, to_members

_FILES = ("log.pem", "log.origin", "tag.key", "nonce.key")
_TOKEN_FILE = re.compile(r"token-[A-Za-z0-9_-]{1,64}\.pem")


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key for tokens with its key id, the RFC 7638 thumbprint of its public half."""

    kid: str
    private: ec.EllipticCurvePrivateKey
    public: PublicKey

    def __repr__(self) -> str:
        """Shows the thumbprint, never the key."""
        return f"SigningKey({self.kid})"


class KeyRing:
    """The broker's own keys, made at first use.

    Args:
        folder: `<data folder>/keys`.
        entropy: makes the symmetric keys.
        log_origin: what the log is called; settled when its key is made, so that verifiers can follow it when the
            broker moves to another address.
        make: whether missing keys may be made. Beside a database that exists they may not: a log that goes on under
            another key, or with other pseudonyms, looks like a forged one.

    Raises:
        ConfigurationError: a key file that is missing, that others can read, or that holds no usable key. Fails closed.
    """

    def __init__(self, folder: Path, entropy: Entropy, *, log_origin: str, make: bool = True) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder}: cannot be made: {error.strerror}") from error
        _owner_only(folder)
        self._folder = folder
        tokens = [_load_ec(path) for path in sorted(folder.iterdir()) if _TOKEN_FILE.fullmatch(path.name)]
        missing = [name for name in _FILES if not (folder / name).exists()]
        if not make and (missing or not tokens):
            raise ConfigurationError(
                f"{folder / (missing[0] if missing else 'token-….pem')}: is missing, though the database is there; "
                "restore it from the backup that the database comes from"
            )
        if not tokens:
            tokens = [_make_token_key(folder)]
        self._tokens = {key.kid: key for key in tokens}
        self._current = tokens[-1]
        self._log = _load_or_make_log_key(folder / "log.pem")
        self._tag_key = _load_or_make_secret(folder / "tag.key", entropy)
        self._nonce_key = _load_or_make_secret(folder / "nonce.key", entropy)
        if not (folder / "log.origin").exists():
            write_private(folder / "log.origin", log_origin.encode())
        self._log_origin = (folder / "log.origin").read_text("utf-8")

    @property
    def current(self) -> SigningKey:
        """The key that signs tokens now."""
        return self._current

    @property
    def log_key(self) -> Ed25519PrivateKey:
        """The key that signs checkpoints."""
        return self._log

    @property
    def log_origin(self) -> str:
        """The log's name (C2SP tlog-checkpoint), the same for as long as the log lives."""
        return self._log_origin

    @property
    def log_begun(self) -> bool:
        """Whether a checkpoint was ever signed by the log's key: then there is a database to go on with."""
        return (self._folder / "log.begun").exists()

    def mark_log_begun(self) -> None:
        """Notes that a checkpoint was signed."""
        if not self.log_begun:
            write_private(self._folder / "log.begun", b"")

    @property
    def tag_key(self) -> bytes:
        """Keys the pseudonyms in log entries (32 bytes)."""
        return self._tag_key

    @property
    def nonce_key(self) -> bytes:
        """Keys the DPoP nonces (32 bytes)."""
        return self._nonce_key

    def verifying(self) -> Mapping[str, PublicKey]:
        """The public keys under which tokens may be verified, by key id."""
        return {kid: key.public for kid, key in self._tokens.items()}

    def jwks(self) -> dict[str, object]:
        """The public key set to publish (RFC 7517 §5)."""
        keys = [
            {**to_members(key.private.public_key()), "kid": kid, "alg": "ES256", "use": "sig"}
            for kid, key in self._tokens.items()
        ]
        return {"keys": keys}

    def __repr__(self) -> str:
        """Shows the current key's id only."""
        return f"KeyRing(current={self._current.kid})"


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all, and durable when it returns.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
        OSError: it cannot be written, for want of room or rights; nothing of it stays.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)  # all of it: os.write may take less when the disk is nearly full
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _make_token_key(folder: Path) -> SigningKey:
    private = ec.generate_private_key(ec.SECP256R1())
    key = _signing_key(private)
    write_private(folder / f"token-{key.kid}.pem", _pem(private))
    return key


def _signing_key(private: ec.EllipticCurvePrivateKey) -> SigningKey:
    public = parse_public(to_members(private.public_key()))
    return SigningKey(public.thumbprint, private, public)


def _load_ec(path: Path) -> SigningKey:
    private = load_private_pem(path)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP256R1):
        raise ConfigurationError(f"{path}: is no P-256 private key")
    return _signing_key(private)


def _load_or_make_log_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        write_private(path, _pem(Ed25519PrivateKey.generate()))
    private = load_private_pem(path)
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: is no Ed25519 private key")
    return private


def _load_or_make_secret(path: Path, entropy: Entropy) -> bytes:
    if not path.exists():
        write_private(path, entropy(32))
    _owner_only(path)
    secret = path.read_bytes()
    if len(secret) != 32:
        raise ConfigurationError(f"{path}: holds {len(secret)} bytes instead of 32; restore it from a backup")
    return secret


def load_private_pem(path: Path) -> ec.EllipticCurvePrivateKey | Ed25519PrivateKey:
    """Reads a private key of the owner's.

    Raises:
        ConfigurationError: readable by others, missing, or no EC or Ed25519 key in PEM.
    """
    _owner_only(path)
    try:
        private = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: holds no private key that can be read: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: is neither an EC nor an Ed25519 private key")
    return private


def _pem(private: ec.EllipticCurvePrivateKey | Ed25519PrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _owner_only(path: Path) -> None:
    try:
        mode = path.stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode.st_mode) & 0o077:
        raise ConfigurationError(f"{path}: others can read it; run `chmod go= {path}` and consider its keys stolen")
    if mode.st_uid != os.geteuid():
        raise ConfigurationError(f"{path}: belongs to another user; it must belong to the one who runs the broker")
