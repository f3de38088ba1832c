"""Bundles on this machine: what a file proves under a pinned key, and whether checkpoints contradict each other.

Nothing here asks a broker: an auditor who trusts it as far as its signed checkpoints, and no further, uses this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from broker.audit.trail import VerifiedRecord, verify_bundle
from broker.errors import BrokerError, ConfigurationError, Malformed, ProofInvalid
from broker.formats import canonical_json, checkpoint, record, succession, tlog_proof
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteVerifier

KEPT = "the checkpoint that you kept"
HANDOVER = "the statement by which a key of the log was followed"
_MAX_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Proved:
    """A file whose record is proved; only `Auditor.verify` makes one.

    Args:
        record: what it proves.
        withheld: groups that the file does not show.
        kept: how its checkpoint stands to the one that the auditor kept: "same", "not compared", or "" without one.
    """

    record: VerifiedRecord
    withheld: tuple[str, ...]
    kept: str


class LogShrank(ProofInvalid):
    """A log that has fewer entries than it had."""

    reason = "log_shrank"


class LogForked(ProofInvalid):
    """A log that is not a continuation of itself: its key signed two histories."""

    reason = "log_forked"


class Auditor:
    """Verifies files under one key, and remembers every checkpoint that they are under.

    Args:
        pinned: a key of the log.
        kept: the signed checkpoint that the auditor kept from before, or None.
        successions: statements by which the log's keys followed each other, beside those in the bundles.

    Raises:
        ProofInvalid: `kept` is not a checkpoint of this log.
    """

    def __init__(self, pinned: NoteVerifier, kept: str | None = None, successions: Sequence[str] = ()) -> None:
        self._pinned = pinned
        self._successions = tuple(successions)
        self._roots: dict[int, tuple[bytes, str]] = {}
        self._kept = opened(kept, pinned, successions) if kept is not None else None
        if self._kept is not None:
            self._roots[self._kept.size] = (self._kept.root, KEPT)

    def verify(self, data: bytes, where: str) -> Proved:
        """Checks one bundle.

        Raises:
            VerificationFailed, Malformed: the text says what does not fit.
        """
        proved = verify_bundle(data, self._pinned, self._successions)
        members = canonical_json.parse(data, max_bytes=_MAX_BYTES)
        assert isinstance(members, dict)
        assert isinstance(members["groups"], dict)
        successions = (*succession.statements_in(members), *self._successions)
        head = opened(tlog_proof.checkpoint_of(str(members["proof"])), self._pinned, successions)
        self._compare(head, where)
        shown = members["groups"].keys()
        return Proved(proved, tuple(name for name in record.GROUPS if name not in shown), self._standing(head))

    def _compare(self, head: Checkpoint, where: str) -> None:
        """Two trees of one size under one key are the proof that the log tells different people different things."""
        root, source = self._roots.setdefault(head.size, (head.root, where))
        if root != head.root:
            raise ProofInvalid(
                f"The log signed two different trees of {head.size} entries: this one, and that of {source}. "
                "Keep both: together they prove that it told two stories."
            )

    def _standing(self, head: Checkpoint) -> str:
        if self._kept is None:
            return ""
        return "same" if head.size == self._kept.size else "not compared"


def opened(signed: str, pinned: NoteVerifier, successions: Sequence[str]) -> Checkpoint:
    """Verifies a checkpoint under the pinned key, or one that it leads to.

    Raises:
        ProofInvalid: it does not verify.
    """
    return checkpoint.open_signed(signed, succession.key_for(signed, pinned, successions))


def check_size(old: Checkpoint, new: Checkpoint) -> None:
    """Checks what two checkpoints tell by themselves, both verified under the pinned key.

    Raises:
        LogShrank: the log has fewer entries than before.
        LogForked: two trees of one size.
    """
    if new.size < old.size:
        raise LogShrank(f"The log shrank from {old.size} to {new.size} entries. Keep the old checkpoint as a proof.")
    if new.size == old.size and new.root != old.root:
        raise LogForked(
            f"The log of {new.size} entries does not continue the {old.size} of {KEPT}: two trees of one size have two "
            f"roots. Keep {KEPT}: with the new checkpoint it proves that the log was changed."
        )


def check_growth(
    old: Checkpoint,
    new: Checkpoint,
    root_at: Callable[[int], bytes],
    where: Callable[[], int | None] = lambda: None,
    source: str = KEPT,
) -> None:
    """Checks that the log of `new` begins with that of `old`, both verified under the pinned key.

    Args:
        old: the tree that somebody holds.
        new: the checkpoint that the log gives now.
        root_at: the root that the new tree had at a size (`broker.formats.tiles`).
        where: finds the first entry that differs, or None if nobody can tell; called only if there is one.
        source: where `old` stands: KEPT or HANDOVER.

    Raises:
        LogForked: it does not; the log was changed, or tells different people different things.
    """
    if root_at(old.size) == old.root:
        return
    index = where()
    told = f"entry {index} is another one now." if index is not None else "one of those is another one now."
    raise LogForked(
        f"The log of {new.size} entries does not continue the {old.size} of {source}: {told} "
        f"Keep {source}: with the new checkpoint it proves that the log was changed."
    )


def handovers(pinned: NoteVerifier, successions: Sequence[str], head: Checkpoint) -> list[Checkpoint]:
    """The trees at which keys of the log were followed, from the pinned one on: the log of `head` must continue each.

    Not those beyond `head`: a key that was followed after it was fetched says nothing of it.

    Raises:
        ProofInvalid: a statement does not verify, or one key has two successors.
    """
    followed = succession.successors_of(pinned, successions)
    return [Checkpoint(said.origin, said.size, said.root) for said in followed if said.size <= head.size]


def pinned_key(given: str) -> NoteVerifier:
    """The log's key from the command line: the key itself, or a file that holds it in one line.

    Raises:
        ConfigurationError: it is neither.
    """
    text = given
    if "\n" not in given and Path(given).is_file():
        text = read(Path(given)).decode("utf-8", "replace")
    try:
        return NoteVerifier.parse(text.strip())
    except BrokerError as error:
        raise ConfigurationError(
            f"--key: {error.detail} Give the line that `broker keys show --log` prints, or a file that holds it."
        ) from error


def read(file: Path) -> bytes:
    """A file's bytes.

    Raises:
        Malformed: it is too large to be what it should be.
    """
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise Malformed(f"{file} is larger than {_MAX_BYTES // 1024 // 1024} MiB, which no bundle or checkpoint is.")
    return data
