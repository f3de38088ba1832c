"""The broker's own keys, loaded once at start: those that sign tokens, the log's, and two secrets.

Which token keys are published and which of them signs, and which log keys sign, is for the database to say: the ring
holds what is private of them, and shows one picture of the token keys at a time, replaced as a whole (`use`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.entropy import Entropy
from broker.errors import ConfigurationError
from broker.files import write_private
from broker.formats.jwk import PrivateKey, PublicKey, algorithm_of, from_key, to_members
from broker.formats.note import NoteSigner
from broker.keys.files import KeyFolder, parse_pem, pem
from broker.keys.sealed import Unlock

Algorithm = Literal["ES256", "EdDSA"]

_FIRST_LOG = "log.pem"
_SECRETS = ("tag.key", "nonce.key")
_TOKEN_FILE = re.compile(r"token-([A-Za-z0-9_-]{1,64})\.pem")
_LOG_FILE = re.compile(r"log(-[0-9a-f]{8})?\.pem")


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """A private key for tokens with its key id, the RFC 7638 thumbprint of its public half."""

    kid: str
    private: PrivateKey
    public: PublicKey

    @property
    def algorithm(self) -> str:
        """The one algorithm that it signs with."""
        return algorithm_of(self.private)

    def __repr__(self) -> str:
        """Shows the thumbprint, never the key."""
        return f"SigningKey({self.kid})"


class KeyRing:
    """The keys of one folder.

    Args:
        folder: `<data folder>/keys`.
        entropy: makes the symmetric keys.
        log_origin: what the log is called; settled when its first key is made, so that verifiers can follow it when the
            broker moves to another address.
        make: whether missing keys may be made. Beside a database that exists they may not: a log that goes on under
            another key, or with other pseudonyms, looks like a forged one.
        unlock: what opens the folder, if it is sealed.
        algorithm: of the first token key.

    Raises:
        ConfigurationError: a key file that is missing, that others can read, or that holds no usable key. Fails closed.
    """

    def __init__(
        self,
        folder: Path,
        entropy: Entropy,
        *,
        log_origin: str,
        make: bool = True,
        unlock: Unlock | None = None,
        algorithm: Algorithm = "ES256",
    ) -> None:
        self._files = KeyFolder(folder, entropy, unlock, make=make)
        names = self._files.names()
        if not make:
            _complete(folder, names)
        tokens = [self._token_key(name) for name in names if _TOKEN_FILE.fullmatch(name)]
        self._tokens = {key.kid: key for key in tokens}
        if not tokens:
            self.make_token_key(algorithm)
        self._secrets = {name: self._secret(name, entropy) for name in _SECRETS}
        if not (folder / "log.origin").exists():
            write_private(folder / "log.origin", log_origin.encode())
        self._log_origin = (folder / "log.origin").read_text("utf-8")
        self._first_log: NoteSigner | None = None
        self._logs: dict[str, NoteSigner] = {}
        for name in (name for name in names if _LOG_FILE.fullmatch(name)):
            self._take_log_key(self._log_key(name), first=name == _FIRST_LOG)
        if not self._logs:
            self._write_log_key(Ed25519PrivateKey.generate(), first=True)
        self.use(tuple(self._tokens), tuple(self._tokens)[-1])

    # Token keys

    @property
    def current(self) -> SigningKey:
        """The key that signs tokens now."""
        return self._current

    @property
    def verifying(self) -> Mapping[str, PublicKey]:
        """The public keys under which tokens may be verified, by key id: a new mapping whenever they change."""
        return self._verifying

    @property
    def token_keys(self) -> Mapping[str, SigningKey]:
        """Every token key whose private half is here, by key id, whether it is in use or not."""
        return MappingProxyType(self._tokens)

    def use(self, published: Sequence[str], current: str) -> None:
        """Takes other keys into use, all at once.

        Args:
            published: the ids of the keys that are published and verify tokens.
            current: the id of the one that signs; it must be published.

        Raises:
            ConfigurationError: a key is not in the folder.
        """
        for kid in (*published, current):
            if kid not in self._tokens:
                path = self._files.path / f"token-{kid}.pem"
                raise ConfigurationError(f"{path}: is missing; restore it from the backup that the database comes from")
        self._verifying: Mapping[str, PublicKey] = MappingProxyType({k: self._tokens[k].public for k in published})
        self._current = self._tokens[current]

    def make_token_key(self, algorithm: Algorithm) -> SigningKey:
        """Makes a token key; it is durable, and neither published nor used yet."""
        if algorithm == "EdDSA":
            private: PrivateKey = Ed25519PrivateKey.generate()
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        key = _signing_key(private)
        self._files.write(f"token-{key.kid}.pem", pem(private))
        self._tokens[key.kid] = key
        return key

    def destroy_token_key(self, kid: str) -> None:
        """Takes away the private half of a key that is in use no more."""
        if kid not in self._verifying and self._tokens.pop(kid, None) is not None:
            self._files.destroy(f"token-{kid}.pem")

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public key set to publish (RFC 7517 §5)."""
        keys = [
            {**to_members(public), "kid": kid, "alg": self._tokens[kid].algorithm, "use": "sig"}
            for kid, public in self._verifying.items()
        ]
        return {"keys": keys}

    # The log's keys

    @property
    def first_log_signer(self) -> NoteSigner | None:
        """The key that the log began with; None once it was replaced and destroyed."""
        return self._first_log

    @property
    def log_signers(self) -> Mapping[str, NoteSigner]:
        """Every log key whose private half is here, by what verifiers pin."""
        return MappingProxyType(self._logs)

    def make_log_key(self) -> NoteSigner:
        """Makes a key for the log to go on with; it is durable, and signs nothing yet."""
        return self._write_log_key(Ed25519PrivateKey.generate(), first=False)

    def destroy_log_key(self, vkey: str) -> None:
        """Takes away the private half of a log key that signs no more."""
        signer = self._logs.pop(vkey, None)
        if signer is None:
            return
        first = self._first_log is not None and self._first_log.vkey == vkey
        self._files.destroy(_FIRST_LOG if first else _log_file(signer))
        if first:
            self._first_log = None

    @property
    def log_origin(self) -> str:
        """The log's name (C2SP tlog-checkpoint), the same for as long as the log lives."""
        return self._log_origin

    @property
    def log_begun(self) -> bool:
        """Whether a checkpoint was ever signed by the log's key: then there is a database to go on with."""
        return (self._files.path / "log.begun").exists()

    def mark_log_begun(self) -> None:
        """Notes that a checkpoint was signed."""
        if not self.log_begun:
            write_private(self._files.path / "log.begun", b"")

    @property
    def seals_begun(self) -> bool:
        """Whether records are sealed: then none is taken without a seal, whatever the database says of its age."""
        return (self._files.path / "seals.begun").exists()

    def mark_seals_begun(self) -> None:
        """Notes that every record is sealed from now on."""
        if not self.seals_begun:
            write_private(self._files.path / "seals.begun", b"")

    # Secrets

    @property
    def tag_key(self) -> bytes:
        """Keys the pseudonyms in log entries (32 bytes)."""
        return self._secrets["tag.key"]

    @property
    def nonce_key(self) -> bytes:
        """Keys the DPoP nonces (32 bytes)."""
        return self._secrets["nonce.key"]

    @property
    def sealed(self) -> bool:
        """Whether the private keys are encrypted at rest."""
        return self._files.sealed

    def __repr__(self) -> str:
        """Shows the current key's id only."""
        return f"KeyRing(current={self._current.kid})"

    def _token_key(self, name: str) -> SigningKey:
        path = self._files.path / name
        private = parse_pem(self._files.read(name), path)
        if isinstance(private, ec.EllipticCurvePrivateKey) and not isinstance(private.curve, ec.SECP256R1):
            raise ConfigurationError(f"{path}: is no P-256 private key")
        key = _signing_key(private)
        if name != f"token-{key.kid}.pem":
            raise ConfigurationError(f"{path}: holds another key than its name says; restore it from a backup")
        return key

    def _log_key(self, name: str) -> Ed25519PrivateKey:
        path = self._files.path / name
        private = parse_pem(self._files.read(name), path)
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigurationError(f"{path}: is no Ed25519 private key")
        return private

    def _write_log_key(self, private: Ed25519PrivateKey, *, first: bool) -> NoteSigner:
        signer = NoteSigner(self._log_origin, private)
        self._files.write(_FIRST_LOG if first else _log_file(signer), pem(private))
        return self._take_log_key(private, first=first)

    def _take_log_key(self, private: Ed25519PrivateKey, *, first: bool) -> NoteSigner:
        signer = NoteSigner(self._log_origin, private)
        self._logs[signer.vkey] = signer
        if first:
            self._first_log = signer
        return signer

    def _secret(self, name: str, entropy: Entropy) -> bytes:
        if not (self._files.path / name).exists():
            self._files.write(name, entropy(32))
        secret = self._files.read(name)
        if len(secret) != 32:
            path = self._files.path / name
            raise ConfigurationError(f"{path}: holds {len(secret)} bytes instead of 32; restore it from a backup")
        return secret


def _complete(folder: Path, names: Sequence[str]) -> None:
    """Nothing that a broker cannot go on without is missing beside a database that exists."""
    missing = [name for name in _SECRETS if name not in names]
    missing += [] if any(_TOKEN_FILE.fullmatch(name) for name in names) else ["token-….pem"]
    missing += [] if any(_LOG_FILE.fullmatch(name) for name in names) else [_FIRST_LOG]
    missing += [] if (folder / "log.origin").exists() else ["log.origin"]
    if missing:
        raise ConfigurationError(
            f"{folder / missing[0]}: is missing, though the database is there; "
            "restore it from the backup that the database comes from"
        )


def _signing_key(private: PrivateKey) -> SigningKey:
    public = from_key(private.public_key())
    return SigningKey(public.thumbprint, private, public)


def _log_file(signer: NoteSigner) -> str:
    """Named by the key's id, which stands in what verifiers pin."""
    return f"log-{signer.vkey.split('+')[1]}.pem"
