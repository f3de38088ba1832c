"""Signed notes: a text and the signatures of those who stand for it.

    text, ending in a newline
    (empty line)
    — name base64(key id ‖ signature)

Source: c2sp.org/signed-note, Ed25519 only (signature type 0x01).
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import cryptography.exceptions
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from broker.errors import InvalidSignature, Malformed
from broker.formats import jwk

_ED25519 = b"\x01"
_MAX_NOTE_BYTES = 262_144
_MAX_SIGNATURES = 64
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NOT_IN_NAME = re.compile(r"[\s+\x00-\x1f\ud800-\udfff]")
_MARK = "\u2014 "


class NoteSigner:
    """Signs notes with one named key.

    Args:
        name: the key's name, usually a URL without scheme; no white space and no "+".
        key: the Ed25519 key; it signs notes and nothing else.
    """

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        public = key.public_key()
        self.name = _checked_name(name)
        self._key = key
        self._id = _key_id(name, public.public_bytes_raw())
        self.vkey = f"{name}+{self._id.hex()}+{encode_base64(_ED25519 + public.public_bytes_raw())}"
        """What a verifier pins: name, key id in hex, type and public key in base64, with "+" between."""

    def sign(self, text: str) -> str:
        """Gives the note: the text, an empty line, and one signature line.

        Raises:
            Malformed: the text does not end in a newline, or holds control characters or lone surrogates.
        """
        return f"{text}\n{self._line(text)}"

    def cosign(self, note: str) -> str:
        """Gives a signed note with this key's signature added; what it says is the caller's to have checked.

        Raises:
            Malformed: it is no signed note.
        """
        return note + self._line(unverified_text(note))

    def _line(self, text: str) -> str:
        return f"{_MARK}{self.name} {encode_base64(self._id + self._key.sign(_checked_text(text)))}\n"


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """A key that notes are checked with.

    Attributes:
        name: the key's name.
        key_id: 4 bytes; with the name it says which signature lines are this key's.
        key: the Ed25519 public key.
    """

    name: str
    key_id: bytes
    key: Ed25519PublicKey

    @property
    def vkey(self) -> str:
        """The line that it was read from."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(_ED25519 + self.key.public_bytes_raw())}"

    @classmethod
    def parse(cls, vkey: str) -> NoteVerifier:
        """Reads "name+id+base64(type ‖ public key)".

        Raises:
            Malformed: another shape, another signature type, or an id that is not this key's.
        """
        parts = vkey.split("+", 2)
        if len(parts) != 3:
            raise Malformed("A verifier key looks like name+8 hex digits+base64.")
        name, digits, encoded = parts
        raw = decode_base64(encoded)
        if raw[:1] != _ED25519 or len(raw) != 33:
            raise Malformed("Only Ed25519 verifier keys (type 0x01, 32 bytes) are taken.")
        key_id = _key_id(_checked_name(name), raw[1:])
        if digits != key_id.hex():
            raise Malformed("The verifier key's id does not fit its name and key: it was altered or cut.")
        key = Ed25519PublicKey.from_public_bytes(raw[1:])
        jwk.from_key(key)  # refuses points of small order
        return cls(name, key_id, key)


def verify(note: str, verifiers: Sequence[NoteVerifier]) -> str:
    """Gives a note's text once a known key is found to have signed it. Fails closed.

    Lines of unknown keys are ignored, as the specification demands; a known key's bad signature refuses the
    whole note.

    Returns:
        The signed text with its final newline.

    Raises:
        Malformed: not a signed note, too long, or too many signatures.
        InvalidSignature: no known key signed it, or a known key's signature does not verify.
    """
    text, lines = _parted(note)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    proved = False
    for name, key_id, signature in [_signature_line(line) for line in lines]:
        verifier = known.get((name, key_id))
        if verifier is None:
            continue
        try:
            verifier.key.verify(signature, text.encode())
        except cryptography.exceptions.InvalidSignature as error:
            raise InvalidSignature(f'The signature of "{name}" does not verify: the note was altered.') from error
        proved = True
    if not proved:
        raise InvalidSignature("No known key signed the note: check the verifier key you pinned.")
    return text


def unverified_text(note: str) -> str:
    """Gives a note's text without looking at its signatures.

    Raises:
        Malformed: not a signed note, too long, or too many signatures.
    """
    return _parted(note)[0]


def unverified_signers(note: str) -> frozenset[tuple[str, bytes]]:
    """The keys, by name and id, that a note claims to be signed by: to choose which one to verify it with.

    Raises:
        Malformed: not a signed note, or a signature line of another shape.
    """
    return frozenset((name, key_id) for name, key_id, _ in map(_signature_line, _parted(note)[1]))


def encode_base64(data: bytes) -> str:
    """Plain base64 with padding (RFC 4648 §4), which the C2SP formats use."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Reads plain base64 in its only canonical spelling.

    Raises:
        Malformed: anything else, trailing bits that are not zero included.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Malformed("The text is not base64 (RFC 4648 section 4).") from error
    if encode_base64(data) != text:
        raise Malformed("The text is not canonical base64.")
    return data


def _parted(note: str) -> tuple[str, list[str]]:
    if len(note) > _MAX_NOTE_BYTES:
        raise Malformed(f"A signed note is at most {_MAX_NOTE_BYTES} characters.")
    _checked_text(note)
    at = note.rfind("\n\n")
    if at < 0:
        raise Malformed("A signed note is a text, an empty line, and signature lines.")
    lines = note[at + 2 : -1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise Malformed(f"A signed note has at most {_MAX_SIGNATURES} signatures.")
    return note[: at + 1], lines


def _signature_line(line: str) -> tuple[str, bytes, bytes]:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not space:
        raise Malformed("A signature line is an em dash, a key name and base64, with spaces between.")
    raw = decode_base64(encoded)
    if len(raw) < 5:
        raise Malformed("A signature line holds a key id of 4 bytes and a signature.")
    return _checked_name(name), raw[:4], raw[4:]


def _checked_text(text: str) -> bytes:
    if not text.endswith("\n") or _CONTROL.search(text) is not None:
        raise Malformed("A note's text ends in a newline and holds no other control characters.")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Malformed("A note's text must be valid Unicode.") from error


def _checked_name(name: str) -> str:
    if not name or _NOT_IN_NAME.search(name) is not None:
        raise Malformed("A key name must not be empty, nor hold white space or '+'.")
    return name


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode("utf-8") + b"\n" + _ED25519 + public).digest()[:4]
