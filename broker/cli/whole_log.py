"""A whole log verified from its public bytes, and a range of its records verified against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from broker.cli import bundles
from broker.cli.absences import Absences, Elsewhere
from broker.cli.proved_records import Records
from broker.cli.public_log import KeptTiles, PublicLog
from broker.errors import BrokerError, Malformed, ProofInvalid
from broker.formats import succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteVerifier
from broker.formats.record import GROUPS
from broker.formats.succession import Succession
from broker.formats.tiles import SPAN, TiledTree

_AT_ONCE = 8
"""Tiles fetched at the same time: most of the time that a far log takes is waiting."""


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


def verified(log: PublicLog, pinned: NoteVerifier, kept: str | None, file: Path | None = None) -> Verified:
    """Fetches the newest checkpoint, and verifies all that the last tiles of the levels tell.

    1. The pinned key, or one that it leads to, signed it.
    2. The tree under it begins with the tree of the checkpoint that was kept, and with that of each succession of keys.

    Args:
        log: where it comes from.
        pinned: a key of the log.
        kept: the signed checkpoint that was kept, or None.
        file: where it was kept.

    Raises:
        ProofInvalid: the text says what does not fit, and from which entry on, where that can be told.
        ApiFailed: the log does not answer.
    """
    signed, statements = log.checkpoint(), log.successions()
    head = bundles.opened(signed, pinned, statements)
    old = _opened(kept, file, pinned, statements) if kept is not None else None
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
class CheckedRecords:
    """A range of records that are those of the tree. Only `check_records` builds one.

    Args:
        agents: how many agents they are of.
        withheld: of how many records each group is withheld from this auditor, as the broker says.
        erased: how many groups were erased, each as a record of an erasure under the same checkpoint says.
        untold: how many groups are gone before an erasure of which it is withheld what it took.
    """

    agents: int
    withheld: Mapping[str, int]
    erased: int
    untold: int


def check_records(
    tree: TiledTree,
    start: int,
    end: int,
    pages: Iterable[Sequence[object]],
    done: Callable[[int], None],
    erasures: Elsewhere,
) -> CheckedRecords:
    """Verifies the records [start, end), and why groups of them are not shown.

    Args:
        tree: the verified tree.
        start, end: which.
        pages: what the log gives for them.
        done: is told how many are behind.
        erasures: gives the records of erasures behind them, in the shape of `pages`; asked once, if a group is gone
            for which none of these stands.

    Raises:
        ProofInvalid: the text names the index.
    """
    records, absences = Records(start), Absences()
    for page in pages:
        for stated in page:
            found = records.check(tree, stated)
            if found.gap:
                raise ProofInvalid(found.gap)
            absences.note(found)
        done(records.next - start)
    if records.next != end:
        raise ProofInvalid(
            f"The broker gives no record {records.next}, which is under its checkpoint: it is withheld or lost."
        )
    for invalid in absences.settle(tree, end, erasures):
        raise invalid
    for _, missing in absences.missing():
        raise missing
    withheld = {name: absences.withheld[name] for name in GROUPS if absences.withheld[name]}
    return CheckedRecords(len(records.last), withheld, absences.erased, absences.untold)


def _opened(kept: str, file: Path | None, pinned: NoteVerifier, statements: Sequence[str]) -> Checkpoint:
    try:
        return bundles.opened(kept, pinned, statements)
    except (ProofInvalid, Malformed) as error:
        raise ProofInvalid(
            f"Of {bundles.KEPT}{f' in {file}' if file else ''} it cannot be said whether the log continues it: "
            f"{error.detail} Its file was altered or is of another log or key, or this log does not publish any more "
            "which keys it had."
        ) from error


def _where(log: PublicLog, old: Checkpoint, tree: TiledTree) -> int | None:
    """The first entry that is another one than before, if the tiles of then were kept."""
    try:
        return TiledTree(old, KeptTiles(log)).first_difference(tree)
    except BrokerError:
        return None
