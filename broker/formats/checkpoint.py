"""A checkpoint: the log's promise of its size and root, as a signed note.

Source: c2sp.org/tlog-checkpoint. Extension lines are read over, never written and never trusted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from broker.errors import Malformed, ProofInvalid, VerificationFailed
from broker.formats import note
from broker.formats.note import NoteSigner, NoteVerifier

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head.

    Attributes:
        origin: the log's name, one line.
        size: how many entries the tree has.
        root: its RFC 6962 root, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """The note text: origin, size and root in base64, a line each.

        Raises:
            Malformed: an origin that is empty or more than a line, a negative size, or a root of another
                length.
        """
        if not self.origin or "\n" in self.origin:
            raise Malformed("A checkpoint's origin is one line that is not empty.")
        if not 0 <= self.size < 2**63 or len(self.root) != 32:
            raise Malformed("A checkpoint needs a size from 0 and a root of 32 bytes.")
        return f"{self.origin}\n{self.size}\n{note.encode_base64(self.root)}\n"


def parse(text: str) -> Checkpoint:
    """Reads a checkpoint's note text; the caller has verified the note, or trusts nothing in it.

    Raises:
        Malformed: fewer than three lines, an empty one, a size with leading zeros, or a root of another
            length.
    """
    lines = text.split("\n")
    if len(lines) < 4 or lines[-1] != "" or not all(lines[:-1]):
        raise Malformed("A checkpoint is origin, size and root, a line each.")
    root = note.decode_base64(lines[2])
    if len(root) != 32:
        raise Malformed("A checkpoint's root has 32 bytes.")
    return Checkpoint(lines[0], parse_decimal(lines[1]), root)


def sign(checkpoint: Checkpoint, signer: NoteSigner, *beside: NoteSigner) -> str:
    """Gives the checkpoint signed by each key. That no two of them contradict each other is the caller's promise."""
    signed = signer.sign(checkpoint.to_text())
    for other in beside:
        signed = other.cosign(signed)
    return signed


def open_signed(signed: str, log_key: NoteVerifier) -> Checkpoint:
    """Verifies a signed checkpoint and gives it. Fails closed.

    Args:
        signed: the signed note.
        log_key: the key pinned for the log. Its name is the log's: a key must not speak for two logs.

    Raises:
        ProofInvalid: not a checkpoint, not of this log, or not signed by its key.
    """
    try:
        checkpoint = parse(note.verify(signed, [log_key]))
    except (Malformed, VerificationFailed) as error:
        raise ProofInvalid(error.detail) from error
    if checkpoint.origin != log_key.name:
        raise ProofInvalid(f'The checkpoint is of another log than "{log_key.name}".')
    return checkpoint


def parse_unverified(signed: str) -> Checkpoint:
    """Reads a signed checkpoint without looking at its signatures: for one's own, or to see what is claimed.

    Raises:
        Malformed: not a signed note, or not of a checkpoint.
    """
    return parse(note.unverified_text(signed))


def parse_decimal(text: str) -> int:
    """Reads an ASCII decimal below 2**63 without leading zeros.

    Raises:
        Malformed: anything else.
    """
    if _DECIMAL.fullmatch(text) is None or int(text) >= 2**63:
        raise Malformed("A number must be decimal, without leading zeros, below 2**63.")
    return int(text)
