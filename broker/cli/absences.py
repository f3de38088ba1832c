"""Why groups of records are not shown: withheld from this auditor, or erased, as a record of the erasure says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from broker.audit.erasures import Erasures, GroupMissing, lacking
from broker.audit.events import Kind
from broker.cli.proved_records import ProvedRecord, RecordInvalid, Records, place_of
from broker.errors import Malformed
from broker.formats.record import GROUPS
from broker.formats.tiles import TiledTree

Elsewhere = Callable[[int, int], Iterable[object]]
"""Gives the records of erasures in [start, end) as `/api/v1/audit/entries` does, and the index alone of later ones."""

_AGAIN = (
    " First verify again: the broker names an erasure that came after this checkpoint, and that one may be the reason."
)


class Absences:
    """Counts what is not shown, and finds what nobody says why. Fails closed.

    An erasure speaks of records before it, so what it covers is known when it comes, or is asked for at the end.

    Args:
        gone: groups of records of which it was not known yet whether they were erased, by index.
    """

    def __init__(self, gone: Mapping[int, Iterable[str]] | None = None) -> None:
        self.withheld: Counter[str] = Counter()
        """How many records do not show a group because it is withheld from this auditor, as the broker says."""
        self.erased = 0
        """Groups that are gone as a record of an erasure says."""
        self.untold = 0
        """Groups that are gone, before an erasure of which it is withheld what it took."""
        self.gone = {index: tuple(sorted(groups)) for index, groups in (gone or {}).items()}
        """Groups that are gone, by index, and nobody has said yet why."""
        self._same: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._erasures = Erasures()
        self._hidden = 0
        self._later = False

    def note(self, found: ProvedRecord) -> None:
        """Takes a record as it comes.

        Raises:
            RecordInvalid: it is of an erasure, and does not say what was erased.
            GroupMissing: it is of an erasure, which is never erased itself.
        """
        self.withheld.update(found.withheld)
        gone = tuple(name for name in GROUPS if name not in found.contents and name not in found.withheld)
        if found.entry.kind == Kind.RECORDS_ERASED:
            if gone:
                raise lacking(gone, f"Record {found.index}: ")
            self._add(found)
        elif gone:
            self.gone[found.index] = self._same.setdefault(gone, gone)

    def settle(self, tree: TiledTree, behind: int, elsewhere: Elsewhere) -> list[RecordInvalid]:
        """Asks for the records of erasures that did not come yet, if there is a group for which none of those stands.

        Args:
            tree: the verified tree.
            behind: erasures from this index on have not come.
            elsewhere: gives them; asked once.

        Returns:
            What is wrong with those that are not the tree's, or do not say what was erased: they excuse nothing.

        Raises:
            ProofInvalid, Malformed, ApiFailed: of the tree, or of the asking; nothing is settled then.
        """
        self._close()
        if not self.gone:
            return []
        records, invalid = Records(0), list[RecordInvalid]()
        for stated in elsewhere(behind, tree.size):
            self._later |= (place_of(stated) or 0) >= tree.size
            try:
                found = records.anywhere(tree, stated)
                if found is not None and found.entry.kind == Kind.RECORDS_ERASED:
                    self._add(found)
            except RecordInvalid as error:
                invalid.append(error)
        self._close()
        return invalid

    def missing(self) -> Iterator[tuple[int, GroupMissing]]:
        """What nobody says why, by index, after `settle`; each once."""
        while self.gone:
            index = next(iter(self.gone))
            detail = lacking(self.gone.pop(index), f"Record {index}: ").detail
            yield index, GroupMissing(detail + _AGAIN if self._later else detail)

    def _add(self, found: ProvedRecord) -> None:
        if "remedy" in found.withheld:
            self._hidden = max(self._hidden, found.index)
            return
        try:
            self._erasures.add(found.index, found.group("remedy"))
        except Malformed as error:
            told = "it is of an erasure, and does not say which groups of which records before it."
            raise RecordInvalid(found.index, told) from error

    def _close(self) -> None:
        """Counts what the erasures that are known speak of."""
        still: dict[int, tuple[str, ...]] = {}
        for index, groups in self.gone.items():
            left = self._erasures.leave(index, groups)
            self.erased += len(groups) - len(left)
            if index < self._hidden:
                self.untold += len(left)
            elif left:
                still[index] = self._same.setdefault(left, left)
        self.gone = still
