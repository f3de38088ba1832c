"""A log's key is followed by another: the statement that both keys sign, and how verifiers go from one to the other.

    log-key-succession v1
    origin                 the log's name, which stays
    old verifier key
    new verifier key
    size                   of the tree at which the new key takes over
    root                   of that tree, in base64

It is a signed note (c2sp.org/signed-note) with a signature of each key. The old key says that it signs nothing beyond
that tree without the new one; the new key says that it goes on from that tree. Its second line is no number, so that no
such statement reads as a checkpoint (c2sp.org/tlog-checkpoint), nor a checkpoint as a statement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from broker.errors import Malformed, ProofInvalid, VerificationFailed
from broker.formats import canonical_json, checkpoint, note
from broker.formats.note import NoteSigner, NoteVerifier

HEADER = "log-key-succession v1"
_MAX_STATEMENTS = 1000
_MAX_PUBLISHED_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Succession:
    """What a statement says.

    Attributes:
        origin: the log's name.
        old: the verifier key that is followed.
        new: the verifier key that follows.
        size: of the tree at which it does.
        root: of that tree, 32 bytes.
    """

    origin: str
    old: str
    new: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """The note's text."""
        return f"{HEADER}\n{self.origin}\n{self.old}\n{self.new}\n{self.size}\n{note.encode_base64(self.root)}\n"


def sign(said: Succession, old: NoteSigner, new: NoteSigner) -> str:
    """Gives the statement, signed by both keys."""
    return new.cosign(old.sign(said.to_text()))


def open_signed(statement: str) -> Succession:
    """Verifies a statement under the two keys that it names. That one of them can be trusted is for `key_for` to see.

    Raises:
        ProofInvalid: not a statement, of keys of another log, or not signed by both.
    """
    try:
        said = _parse(note.unverified_text(statement))
        for vkey in (said.old, said.new):
            verifier = NoteVerifier.parse(vkey)
            if verifier.name != said.origin:
                raise Malformed("A key of the statement is named for another log.")
            note.verify(statement, [verifier])
    except (Malformed, VerificationFailed) as error:
        raise ProofInvalid(f"The succession of the log's keys does not verify: {error.detail}") from error
    return said


def key_for(signed: str, pinned: NoteVerifier, statements: Sequence[str]) -> NoteVerifier:
    """The key under which to verify a checkpoint, for somebody who pinned one key of the log. Fails closed.

    From the pinned key statements are followed forwards to the keys that came after it, and backwards to those before:
    each key counts for the trees from where it took over up to where it handed over, and no further. So a key that was
    stolen after it was followed makes no new trees.

    Args:
        signed: a signed checkpoint.
        pinned: the key that is trusted.
        statements: of successions, in any order; each is verified.

    Raises:
        ProofInvalid: no such key signed it, a statement does not verify, or one key has two successors; it is of the
            size of a handover, and of another tree.
    """
    try:
        signers = note.unverified_signers(signed)
        tree = checkpoint.parse_unverified(signed)
    except Malformed as error:
        raise ProofInvalid(error.detail) from error
    said = [found for found in map(open_signed, statements) if found.origin == pinned.name]
    for verifier, began, ended in _reached(pinned, said):
        in_time = (began is None or began.size <= tree.size) and (ended is None or tree.size <= ended.size)
        if (verifier.name, verifier.key_id) in signers and in_time:
            handovers = [each for each in (began, ended) if each is not None]
            if any(each.size == tree.size and each.root != tree.root for each in handovers):
                raise ProofInvalid(
                    f"At {tree.size} entries a key of the log was followed by another, and that tree is not this one. "
                    "Keep the checkpoint and the statement: together they prove that two stories were told."
                )
            return verifier
    raise ProofInvalid(
        "Neither the key that you pinned nor one that follows from it signed this checkpoint: check the verifier key "
        "you pinned. If the log's key was replaced, fetch its successions from /log/keys."
    )


def statements_in(members: object) -> tuple[str, ...]:
    """The statements that a bundle brings, unverified; none in one that was written before there were any.

    Raises:
        Malformed: they are of another shape.
    """
    found = members.get("successions", []) if isinstance(members, dict) else None
    if not isinstance(found, list) or len(found) > _MAX_STATEMENTS or not all(isinstance(each, str) for each in found):
        raise Malformed("`successions` is missing or no list of signed statements.")
    return tuple(map(str, found))


def published(data: bytes) -> tuple[str, ...]:
    """The statements in what `GET /log/keys` gives, unverified.

    Raises:
        Malformed: it is of another shape.
    """
    members = canonical_json.parse(data, max_bytes=_MAX_PUBLISHED_BYTES)
    return statements_in(members if isinstance(members, dict) and "successions" in members else None)


def successors_of(pinned: NoteVerifier, statements: Sequence[str]) -> list[Succession]:
    """The statements that lead on from the pinned key, in order: the log must continue each of their trees.

    Raises:
        ProofInvalid: a statement does not verify, or one key has two successors.
    """
    said = [found for found in map(open_signed, statements) if found.origin == pinned.name]
    return list(_walk(pinned.vkey, said, forwards=True))


def _reached(
    pinned: NoteVerifier, said: Sequence[Succession]
) -> Iterator[tuple[NoteVerifier, Succession | None, Succession | None]]:
    """Each key that follows from the pinned one, with how it began and how it ended; the newest first."""
    later, earlier = list(_walk(pinned.vkey, said, forwards=True)), list(_walk(pinned.vkey, said, forwards=False))
    line = [*reversed(earlier), *later]
    sizes = [each.size for each in line]
    if sizes != sorted(sizes):
        raise ProofInvalid("The log's keys follow each other at sizes that go backwards: the statements contradict.")
    keys = [*(each.old for each in line), line[-1].new] if line else [pinned.vkey]
    for key, began, ended in reversed(list(zip(keys, [None, *line], [*line, None], strict=True))):
        yield NoteVerifier.parse(key), began, ended


def _walk(vkey: str, said: Sequence[Succession], *, forwards: bool) -> Iterator[Succession]:
    seen = {vkey}
    while True:
        found = {each for each in said if (each.old if forwards else each.new) == vkey}
        if not found:
            return
        if len(found) > 1:
            raise ProofInvalid(
                "The log's key has two successors, or follows two keys. Keep both statements: together they prove that "
                "it was used to tell two stories."
            )
        step = found.pop()
        vkey = step.new if forwards else step.old
        if vkey in seen:
            raise ProofInvalid("The log's keys follow each other in a circle.")
        seen.add(vkey)
        yield step


def _parse(text: str) -> Succession:
    lines = text.split("\n")
    if len(lines) != 7 or lines[0] != HEADER or lines[-1] != "":
        raise Malformed(f'A succession is six lines, the first of them "{HEADER}".')
    root = note.decode_base64(lines[5])
    if len(root) != 32:
        raise Malformed("The root of a tree has 32 bytes.")
    return Succession(lines[1], lines[2], lines[3], checkpoint.parse_decimal(lines[4]), root)
