"""A proof that stands alone: entry position, inclusion proof and signed checkpoint in one text.

    c2sp.org/tlog-proof@v1
    extra BASE64            (only if there is extra data; nobody signed it)
    index 42
    BASE64 ...              (the inclusion proof, from the leaf's sibling up)
    (empty line)
    the signed checkpoint, verbatim

Source: c2sp.org/tlog-proof. The file's extension is `.tlog-proof`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint as checkpoints
from broker.formats import merkle, note
from broker.formats.note import NoteVerifier

HEADER = "c2sp.org/tlog-proof@v1"

_MAX_PROOF_CHARS = 524_288
_MAX_HASHES = 63


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof as it travels; only `verify` makes it mean something.

    Attributes:
        index: the entry's position in the log, from 0.
        hashes: the inclusion proof, 32 bytes each, from the leaf's sibling up.
        checkpoint: the signed checkpoint, verbatim.
        extra: what the writer added. Not authenticated: never trust it by itself.
    """

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class Proved:
    """What a proof proved; only `verify` makes one.

    Attributes:
        index: the entry's position in the log.
        size: how many entries the log had.
        origin: the log's name.
        root: the root of its tree, 32 bytes.
    """

    index: int
    size: int
    origin: str
    root: bytes


def write(index: int, hashes: Sequence[bytes], checkpoint: str, *, extra: bytes = b"") -> str:
    """Writes a proof as text.

    Args:
        index: the entry's position in the log.
        hashes: its inclusion proof in the tree of the checkpoint.
        checkpoint: the signed checkpoint, verbatim.
        extra: what the reader may want beside it; nobody signs it.

    Raises:
        Malformed: a negative position, or a hash of another length than 32.
    """
    if not 0 <= index < 2**63 or any(len(item) != 32 for item in hashes):
        raise Malformed("A proof needs a position from 0 and hashes of 32 bytes.")
    lines = [HEADER]
    if extra:
        lines.append(f"extra {note.encode_base64(extra)}")
    lines.append(f"index {index}")
    lines.extend(note.encode_base64(item) for item in hashes)
    return "\n".join(lines) + "\n\n" + checkpoint


def parse(text: str) -> TlogProof:
    """Reads a proof; checks its shape only.

    Raises:
        Malformed: another shape.
    """
    if len(text) > _MAX_PROOF_CHARS:
        raise Malformed(f"A proof is at most {_MAX_PROOF_CHARS} characters.")
    head, gap, signed = text.partition("\n\n")
    lines = head.split("\n")
    if not gap or lines.pop(0) != HEADER:
        raise Malformed(f'A proof begins with the line "{HEADER}" and holds a checkpoint after an empty line.')
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = note.decode_base64(lines.pop(0).removeprefix("extra "))
        if not extra:
            raise Malformed("A proof without extra data has no extra line.")
    if not lines or not lines[0].startswith("index "):
        raise Malformed("A proof says the entry's index before its hashes.")
    index = checkpoints.parse_decimal(lines.pop(0).removeprefix("index "))
    if len(lines) > _MAX_HASHES:
        raise Malformed(f"A proof has at most {_MAX_HASHES} hashes.")
    hashes = tuple(note.decode_base64(line) for line in lines)
    if any(len(item) != 32 for item in hashes):
        raise Malformed("Every hash of a proof must have 32 bytes.")
    return TlogProof(index, hashes, signed, extra)


def checkpoint_of(text: str) -> str:
    """The signed checkpoint in a proof, unverified: to choose the key to verify the proof with.

    Raises:
        ProofInvalid: it is no proof.
    """
    try:
        return parse(text).checkpoint
    except Malformed as error:
        raise ProofInvalid(error.detail) from error


def verify(text: str, leaf: bytes, log_key: NoteVerifier) -> Proved:
    """Checks offline that a log, known by its key, holds an entry. Fails closed.

    Args:
        text: the proof.
        leaf: the entry's leaf hash, computed from the entry's exact bytes by the caller.
        log_key: the key pinned for the log; its name is the log's.

    Raises:
        ProofInvalid: another entry, position or log, a bad signature, or not a proof at all.
    """
    try:
        proof = parse(text)
    except Malformed as error:
        raise ProofInvalid(error.detail) from error
    head = checkpoints.open_signed(proof.checkpoint, log_key)
    merkle.verify_inclusion(proof.index, head.size, leaf, proof.hashes, head.root)
    return Proved(proof.index, head.size, head.origin, head.root)
