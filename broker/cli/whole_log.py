"""A whole log verified from its public bytes, and a range of its records verified against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.audit.erasures import Erasures, GroupMissing
from broker.audit.events import Kind
from broker.cli import bundles
from broker.cli.public_log import KeptTiles, PublicLog
from broker.errors import BrokerError, Malformed, ProofInvalid
from broker.formats import canonical_json, note, record, succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteVerifier
from broker.formats.succession import Succession
from broker.formats.tiles import SPAN, TiledTree

_AT_ONCE = 8
"""Tiles fetched at the same time: most of the time that a far log takes is waiting."""

_AGAIN = (
    " First verify again: the broker names an erasure that came after this checkpoint, and that one may be the reason."
)


@dataclass(frozen=True, slots=True)
class Verified:
    """A checkpoint that is the log's, and continues what was kept. Only `verified` builds one.

    Args:
        note: the signed checkpoint.
        head: the same, verified.
        tree: the tree under it; its tiles are verified as they are read.
        continues: the size of the checkpoint that was kept; None without one.
        followed: how the pinned key was followed by others.
    """

    note: str
    head: Checkpoint
    tree: TiledTree
    continues: int | None
    followed: Sequence[Succession]

    @property
    def replaced_by(self) -> str | None:
        """The key to pin from now on, if the pinned one was replaced."""
        return self.followed[-1].new if self.followed else None


def verified(log: PublicLog, pinned: NoteVerifier, kept: str | None) -> Verified:
    """Fetches the newest checkpoint, and verifies all that the last tiles of the levels tell.

    1. The pinned key, or one that it leads to, signed it.
    2. The tree under it begins with the tree of the checkpoint that was kept, and with that of each succession of keys.

    Args:
        log: where it comes from.
        pinned: a key of the log.
        kept: the signed checkpoint that was kept, or None.

    Raises:
        ProofInvalid: the text says what does not fit, and from which entry on, where that can be told.
        ApiFailed: the log does not answer.
    """
    signed, statements = log.checkpoint(), log.successions()
    head = bundles.opened(signed, pinned, statements)
    old = bundles.opened(kept, pinned, statements) if kept is not None else None
    if old is not None:
        bundles.check_size(old, head)
    tree = TiledTree(head, log)
    if old is not None:
        bundles.check_growth(old, head, tree.root_at, lambda: _where(log, old, tree))
    for handover in bundles.handovers(pinned, statements, head):
        bundles.check_growth(handover, head, tree.root_at, source=bundles.HANDOVER)
    log.continues()
    return Verified(
        signed, head, tree, old.size if old is not None else None, succession.successors_of(pinned, statements)
    )


def check_tiles(tree: TiledTree, done: Callable[[int], None]) -> None:
    """Reads every tile, so that all leaves are verified under the checkpoint.

    Args:
        tree: the tree.
        done: is told how many entries are behind.

    Raises:
        ProofInvalid: a tile does not fit; the text names its entries.
    """
    tiles = -(-tree.size // SPAN)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for first in range(0, tiles, SPAN):
            for n, _ in zip(
                range(first, tiles), pool.map(tree.leaves, range(first, min(first + SPAN, tiles))), strict=False
            ):
                done(min((n + 1) * SPAN, tree.size))


@dataclass(frozen=True, slots=True)
class ProvedRecord:
    """A record that is the one in the tree. Only `Records.check` builds one.

    Args:
        index: where.
        entry: what its entry says.
        contents: the canonical JSON of each group that is shown, as it was committed; b"" for one that is empty.
        withheld: groups that the broker says it does not show to this auditor.
        gap: that its agent's running numbers do not follow each other here, as a sentence; "" if they do.
    """

    index: int
    entry: record.Entry
    contents: Mapping[str, bytes]
    withheld: frozenset[str]
    gap: str

    def groups(self) -> dict[str, Any]:
        """The groups that are shown, read.

        Raises:
            Malformed: one of them was committed to as what nobody can read.
        """
        return {name: canonical_json.parse(text, max_bytes=len(text)) for name, text in self.contents.items() if text}


class Records:
    """Checks records against a tree, in order, with the memory of each agent's last number.

    Args:
        start: the index of the first one.
        last: each agent's last number before it, by pseudonym; one that is not there begins with any, or with 1 if
            the first record of the log is among these.
    """

    def __init__(self, start: int, last: Mapping[str, int] | None = None) -> None:
        self.next = start
        self.last = dict(last or {})
        self._from_the_first = start == 0
        self._n, self._leaves = -1, list[bytes]()

    def check(self, tree: TiledTree, stated: object) -> ProvedRecord:
        """Verifies one record as `GET /api/v1/audit/entries` gives it; it must be the next one.

        Raises:
            ProofInvalid: the text names the index, and says what does not fit.
        """
        index = self.next
        fields, disclosed, withheld = self._proved(tree, index, stated)
        self.next += 1
        before = self.last.get(fields.agent_tag, 0 if self._from_the_first else fields.seq - 1)
        self.last[fields.agent_tag] = fields.seq
        gap = ""
        if fields.seq != before + 1:
            gap = (
                f"Record {index} has the number {fields.seq} of its agent ({fields.agent_tag}), and the one before has "
                f"{before}: a record is missing between them, or was put in twice."
            )
        contents = {name: text for name, (_, text) in disclosed.items()}
        return ProvedRecord(index, fields, contents, withheld, gap)

    def erasures(self, tree: TiledTree, stated: Iterable[object]) -> tuple[Erasures, bool]:
        """What records of erasures cover, each verified as `check` does; they may stand anywhere in the tree.

        Returns:
            It, and whether the broker names later ones, which are not under the checkpoint and excuse nothing yet.

        Raises:
            ProofInvalid: one of them is not in the tree, or is of another kind.
        """
        found, later = Erasures(), False
        for each in stated:
            index = each.get("index") if isinstance(each, dict) else None
            if not isinstance(index, int) or not 0 <= index < tree.size:
                later |= isinstance(index, int) and index >= tree.size
                continue
            fields, disclosed, _ = self._proved(tree, index, each)
            if fields.kind == Kind.RECORDS_ERASED:
                content = disclosed.get("remedy", (b"", b""))[1]
                found.add(index, canonical_json.parse(content, max_bytes=len(content)) if content else None)
        return found, later

    def _proved(
        self, tree: TiledTree, index: int, stated: object
    ) -> tuple[record.Entry, dict[str, tuple[bytes, bytes]], frozenset[str]]:
        try:
            entry, commitments, disclosed, withheld = _parts(stated, index)
            if leaf_hash(entry) != self._leaf(tree, index):
                raise ProofInvalid("it is not the one in the tree: it was altered or moved.")
            fields = record.parse_entry(entry)
            record.verify_groups(fields.root, commitments, disclosed)
        except (Malformed, ProofInvalid) as error:
            raise ProofInvalid(f"Record {index}: {error.detail}") from error
        return fields, disclosed, withheld

    def _leaf(self, tree: TiledTree, index: int) -> bytes:
        if index >= tree.size:
            raise ProofInvalid("it is not under the checkpoint.")
        n = index // SPAN
        if n != self._n or len(self._leaves) <= index % SPAN:
            self._n, self._leaves = n, tree.leaves(n)
        return self._leaves[index % SPAN]


def check_records(
    tree: TiledTree,
    start: int,
    end: int,
    pages: Iterable[Sequence[object]],
    done: Callable[[int], None],
    erasures: Callable[[], Iterable[object]],
) -> int:
    """Verifies the records [start, end); returns how many agents they are of.

    A group that is not there is withheld from this auditor, as the broker says, or was erased, as a record of the
    erasure under the same checkpoint says.

    Args:
        tree: the verified tree.
        start, end: which.
        pages: what the log gives for them.
        done: is told how many are behind.
        erasures: gives the records of erasures, in the shape of `pages`; asked once, if a group is not there.

    Raises:
        ProofInvalid: the text names the index.
    """
    records, erased, later = Records(start), None, False
    for page in pages:
        for stated in page:
            found = records.check(tree, stated)
            if found.gap:
                raise ProofInvalid(found.gap)
            there = found.contents.keys() | found.withheld
            if len(there) < len(record.GROUPS):
                if erased is None:
                    erased, later = Records(0).erasures(tree, erasures())
                try:
                    erased.check(found.index, found.entry.kind, there)
                except GroupMissing as error:
                    raise GroupMissing(error.detail + _AGAIN if later else error.detail) from error
        done(records.next - start)
    if records.next != end:
        raise ProofInvalid(
            f"The broker gives no record {records.next}, which is under its checkpoint: it is withheld or lost."
        )
    return len(records.last)


def kept_note(state: Path | None) -> str | None:
    """The checkpoint in the state file; None if there is none yet."""
    return bundles.read(state).decode("utf-8", "replace") if state is not None and state.exists() else None


def _parts(stated: object, index: int) -> tuple[bytes, bytes, dict[str, tuple[bytes, bytes]], frozenset[str]]:
    if not isinstance(stated, dict) or stated.get("index") != index:
        raise ProofInvalid("it is missing: the broker gives another one in its place.")
    try:
        groups = stated["groups"].items()
        disclosed = {name: (note.decode_base64(each["salt"]), each["content"].encode()) for name, each in groups}
        entry, commitments = note.decode_base64(stated["entry"]), note.decode_base64(stated["commitments"])
        return entry, commitments, disclosed, frozenset(map(str, stated.get("withheld", ())))
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise Malformed("it has another shape than a record.") from error


def _where(log: PublicLog, old: Checkpoint, tree: TiledTree) -> int | None:
    """The first entry that is another one than before, if the tiles of then were kept."""
    try:
        return TiledTree(old, KeptTiles(log)).first_difference(tree)
    except BrokerError:
        return None
