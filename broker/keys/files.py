"""The folder of the broker's private keys: each file for its owner alone, and sealed if the folder is."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from broker.entropy import Entropy
from broker.errors import BrokerError, ConfigurationError, Unavailable
from broker.files import owner_only, replace_private, sync_folder, write_private
from broker.formats.jwk import PrivateKey
from broker.keys.sealed import Seal, Unlock, is_sealed

SEAL = "seal.json"
"""Says that a folder is sealed, and with which salt."""

PUBLIC = frozenset({SEAL, "log.origin", "log.begun", "seals.begun"})
"""Files of the folder that hold nothing private, and are never sealed."""


class KeyFolder:
    """A folder of private files.

    Args:
        path: the folder; it is made, for its owner alone, if it is not there.
        entropy: makes nonces and the salt of a new seal.
        unlock: what opens it; None for a folder that is not sealed. A folder without any key becomes what this says.
        make: whether it may become that: not where keys are looked for that should be there.

    Raises:
        ConfigurationError: others can read it, it is sealed and nothing opens it, or it is not and should be.
    """

    def __init__(self, path: Path, entropy: Entropy, unlock: Unlock | None = None, *, make: bool = True) -> None:
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be made: {error.strerror}") from error
        owner_only(path)
        self.path = path
        self._entropy = entropy
        self._seal = self._opened(unlock, make=make)

    def _opened(self, unlock: Unlock | None, *, make: bool) -> Seal | None:
        description = self.path / SEAL
        if description.exists():
            if unlock is None:
                raise ConfigurationError(
                    f"{self.path}: the keys are sealed; name what opens them in keys.passphrase_file, "
                    "keys.passphrase_env or keys.key_file"
                )
            return _seal(description, unlock)
        if unlock is None:
            return None
        _none_sealed(self.path)
        if self.names():
            raise ConfigurationError(
                f"{self.path}: the configuration names a {unlock.kind} and the keys are not sealed; stop the broker "
                "and run `broker keys seal` once"
            )
        if not make:
            return None
        seal = Seal.new(unlock, self._entropy)
        write_private(description, seal.description())
        return seal

    @property
    def sealed(self) -> bool:
        """Whether what it holds is encrypted."""
        return self._seal is not None

    def names(self) -> list[str]:
        """The private files in it, sorted."""
        return _names(self.path)

    def read(self, name: str) -> bytes:
        """A private file's bytes, opened. Fails closed.

        Raises:
            ConfigurationError: missing, readable by others, or sealed otherwise than the folder says.
        """
        path = self.path / name
        owner_only(path)
        data = _read(path)
        if self._seal is None:
            if is_sealed(data):
                raise _no_description(path)
            return data
        if not is_sealed(data):
            raise ConfigurationError(
                f"{path}: is not sealed, though its folder is; if sealing was interrupted, run `broker keys seal` again"
            )
        return _open(self._seal, path, data)

    def write(self, name: str, data: bytes) -> None:
        """Writes a new private file, as `write_private`.

        Raises:
            Unavailable: it could not be written; nothing of it stays.
        """
        path = self.path / name
        try:
            write_private(path, data if self._seal is None else self._seal.close(name, data, self._entropy))
        except OSError as error:
            raise Unavailable(f"{path}: cannot be written: {error.strerror}. Make room there.") from error

    def destroy(self, name: str) -> None:
        """Takes a file away. What it held may still be found on the disk by those who can read all of it."""
        (self.path / name).unlink(missing_ok=True)
        sync_folder(self.path)


def reseal(path: Path, unlock: Unlock, entropy: Entropy, *, close: bool) -> int:
    """Seals every private file of a folder, or opens them all for good. Died in between: run it again, it goes on.

    Args:
        path: the folder; no broker may be using it.
        unlock: what opens it, or will.
        entropy: makes nonces and the salt.
        close: True seals, False opens.

    Returns:
        How many files were rewritten.

    Raises:
        ConfigurationError: something does not open; the files that were rewritten before it are good as they are.
    """
    owner_only(path)
    for left in path.glob("*.partial"):
        left.unlink()  # by a process that died, perhaps of a key in the clear
    description = path / SEAL
    if not description.exists() and not close:
        return 0
    seal = _seal(description, unlock) if description.exists() else Seal.new(unlock, entropy)
    if not description.exists():
        _none_sealed(path)
        write_private(description, seal.description())
    count = 0
    for file in [path / name for name in _names(path)]:
        data = _read(file)
        opened = _open(seal, file, data) if is_sealed(data) else data
        if is_sealed(data) != close:
            replace_private(file, seal.close(file.name, opened, entropy) if close else opened)
            count += 1
    sync_folder(path)
    if not close:
        description.unlink()
        sync_folder(path)
    return count


def load_private_pem(path: Path) -> PrivateKey:
    """Reads a private key of the owner's.

    Raises:
        ConfigurationError: readable by others, missing, or no EC or Ed25519 key in PEM.
    """
    owner_only(path)
    return parse_pem(_read(path), path)


def parse_pem(data: bytes, path: Path) -> PrivateKey:
    """Reads a private key from PEM; `path` names it in errors.

    Raises:
        ConfigurationError: no EC or Ed25519 key.
    """
    try:
        private = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path}: holds no private key that can be read: {error}") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: is neither an EC nor an Ed25519 private key")
    return private


def pem(private: PrivateKey) -> bytes:
    """A private key in PEM (PKCS #8)."""
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error


def _names(path: Path) -> list[str]:
    found = (file.name for file in path.iterdir() if file.is_file())
    return sorted(name for name in found if name not in PUBLIC and not name.endswith(".partial"))


def _seal(description: Path, unlock: Unlock) -> Seal:
    try:
        return Seal.of(_read(description), unlock)
    except BrokerError as error:
        raise ConfigurationError(f"{description}: {error.detail}") from error


def _open(seal: Seal, path: Path, data: bytes) -> bytes:
    try:
        return seal.open(path.name, data)
    except BrokerError as error:
        raise ConfigurationError(f"{path}: {error.detail}") from error


def _none_sealed(path: Path) -> None:
    """A folder that says nothing of a seal has nothing sealed in it: without the salt it would be lost."""
    for name in _names(path):
        if is_sealed(_read(path / name)):
            raise _no_description(path / name)


def _no_description(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path}: is sealed, and {SEAL} beside it is gone; restore both from a backup")
