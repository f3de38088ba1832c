"""Private keys encrypted at rest: AES-256-GCM under a key that is derived from what the operator holds.

    broker-sealed-1 NEWLINE nonce (12 bytes) ‖ ciphertext ‖ tag (16 bytes)

A passphrase is stretched by scrypt (RFC 7914), the bytes of a key file go through HKDF-SHA256 (RFC 5869); either with
the folder's own salt, so that what was sealed for one folder opens in no other. The file's name is authenticated with
it: a sealed file cannot take the place of another. Who reads the disk, or a backup of it, gets nothing; who can also
read the passphrase, or the memory of the running broker, gets the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from broker.entropy import Entropy
from broker.errors import InvalidSignature, Malformed
from broker.formats import base64url, canonical_json

_MARK = b"broker-sealed-1\n"
_SALT_BYTES = 32
_NONCE_BYTES = 12
_SCRYPT_N = 2**17
"""With r = 8: 128 MB and some 0.4 s for each guess."""
_INFO = b"broker keys at rest"
_MIN_SECRET_BYTES = {"passphrase": 12, "key file": 32}


@dataclass(frozen=True, slots=True, repr=False)
class Unlock:
    """What opens sealed keys, as the operator holds it.

    Args:
        kind: how it becomes a key: stretched, or taken as random already.
        secret: a passphrase in UTF-8, or a file's bytes.

    Raises:
        Malformed: too short to keep anything.
    """

    kind: Literal["passphrase", "key file"]
    secret: bytes

    def __post_init__(self) -> None:
        """Refuses what could be guessed."""
        least = _MIN_SECRET_BYTES[self.kind]
        if len(self.secret) < least:
            raise Malformed(f"The {self.kind} that seals the keys has {len(self.secret)} bytes; it needs {least}.")

    def __repr__(self) -> str:
        """Shows the kind, never the secret."""
        return f"Unlock({self.kind})"


class Seal:
    """Seals and opens the files of one folder.

    Args:
        unlock: what the operator holds.
        salt: the folder's own, 32 bytes.
    """

    def __init__(self, unlock: Unlock, salt: bytes) -> None:
        if unlock.kind == "passphrase":
            key = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=8, p=1).derive(unlock.secret)
        else:
            key = HKDF(SHA256(), 32, salt=salt, info=_INFO).derive(unlock.secret)
        self._kind = unlock.kind
        self._salt = salt
        self._cipher = AESGCM(key)

    @classmethod
    def new(cls, unlock: Unlock, entropy: Entropy) -> Seal:
        """A seal for a folder that has none, with a fresh salt."""
        return cls(unlock, entropy(_SALT_BYTES))

    @classmethod
    def of(cls, description: bytes, unlock: Unlock) -> Seal:
        """The seal that a folder's `description` tells of.

        Raises:
            Malformed: of another version, or made with another kind of secret; the text says which.
        """
        found = canonical_json.parse(description, max_bytes=1024)
        members = found if isinstance(found, dict) else {}
        salt = members.get("salt")
        if members.get("version") != 1 or not isinstance(salt, str):
            raise Malformed("It is of another version; use the broker that wrote it.")
        if members.get("kind") != unlock.kind:
            raise Malformed(f"The keys are sealed with a {members.get('kind')}, and a {unlock.kind} is configured.")
        return cls(unlock, base64url.decode(salt))

    def description(self) -> bytes:
        """What the folder keeps beside its files; nothing in it is secret."""
        return orjson.dumps({"version": 1, "kind": self._kind, "salt": base64url.encode(self._salt)})

    def close(self, name: str, data: bytes, entropy: Entropy) -> bytes:
        """Seals a file's bytes for the name that it stands under."""
        nonce = entropy(_NONCE_BYTES)
        return _MARK + nonce + self._cipher.encrypt(nonce, data, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes:
        """Opens a file. Fails closed.

        Raises:
            InvalidSignature: another secret, another name, another folder, or altered bytes.
        """
        start = len(_MARK) + _NONCE_BYTES
        try:
            return self._cipher.decrypt(sealed[len(_MARK) : start], sealed[start:], name.encode())
        except (InvalidTag, ValueError) as error:
            raise InvalidSignature(
                f"The {self._kind} does not open it: it is another one, or the file was altered or moved."
            ) from error


def is_sealed(data: bytes) -> bool:
    """Whether a file's bytes are sealed ones."""
    return data.startswith(_MARK)
