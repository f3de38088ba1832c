"""What the records of erasures cover: a group that is gone without one was taken out of the database, or is held back.

`RecordsErased` names groups and ranges of records before it, and is never erased itself. Whoever meets a record that
lacks a group looks here: the erasure that says so, or nothing, and then it is tampering.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import orjson
from sqlalchemy import Connection

from broker.audit.events import Kind
from broker.db.engine import execute, select_in
from broker.errors import Malformed, ProofInvalid
from broker.formats import record
from broker.formats.merkle import leaf_hash
from broker.formats.record import GROUPS

log = logging.getLogger(__name__)

MOST_KNOWN = 1_000_000
"""Ranges remembered, with 16 bytes for each; an erasure counts for as many as its own members take."""

_WEIGHT = 24
_FEW = 256
_BITS = {name: 1 << place for place, name in enumerate(GROUPS)}


class GroupMissing(ProofInvalid):
    """A group of a record is not there, and no record of an erasure says so; the text names both."""

    reason = "group_missing"


class ErasureUndone(ProofInvalid):
    """A group that was erased on record is there again; the text names it."""


class Erasures:
    """Which groups of which records were erased: a byte for each record up to the last one that was. Fails closed."""

    def __init__(self) -> None:
        self._erased = bytearray()

    def add(self, index: int, remedy: object) -> None:
        """Takes what the record of an erasure says, once somebody has verified it, or will.

        Args:
            index: of that record; it covers records before it alone.
            remedy: its group.

        Raises:
            Malformed: it does not say what an erasure says.
        """
        bits, ranges = _said(index, remedy)
        for first, last in ranges:
            self._erased.extend(bytes(max(0, last + 1 - len(self._erased))))
            for place in range(first, last + 1):
                self._erased[place] |= bits

    def leave(self, index: int, gone: Collection[str]) -> tuple[str, ...]:
        """Those of the groups which a record lacks that no erasure names; a record of an erasure is never erased."""
        covered = self._erased[index] if index < len(self._erased) else 0
        return tuple(name for name in gone if not covered & _BITS[name])

    def check(self, index: int, kind: str, there: Collection[str]) -> None:
        """Makes sure that each group of a record is there, or was erased.

        Args:
            index, kind: the record's.
            there: the names of the groups that it shows.

        Raises:
            GroupMissing: one is neither.
        """
        if len(there) == len(GROUPS):
            return
        gone = [name for name in GROUPS if name not in there]
        if left := gone if kind == Kind.RECORDS_ERASED else self.leave(index, gone):
            raise lacking(left, f"Record {index}: ")

    def check_gone(self, index: int, kind: str, there: Collection[str]) -> None:
        """Makes sure that each group which was erased is gone; for what was read in one state of the database.

        Args:
            index, kind: the record's.
            there: the names of the groups that it shows.

        Raises:
            ErasureUndone: one is there again.
        """
        covered = self._erased[index] if index < len(self._erased) and kind != Kind.RECORDS_ERASED else 0
        back = [name for name in GROUPS if name in there and covered & _BITS[name]]
        if back:
            raise ErasureUndone(
                f"{', '.join(back)} was erased, as RecordsErased says, and is there again: somebody put it back in the "
                "database. Erase it again."
            )


def lacking(groups: Collection[str], where: str = "") -> GroupMissing:
    """The error of a record that lacks groups which nobody erased on record."""
    text = (
        f"{where}content and salt of {', '.join(groups)} are missing, and no record of an erasure (RecordsErased) says "
        "so: they were taken out of the database, altered into what nobody can read, or are held back. Ask the "
        "operators for the backup that has them."
    )
    return GroupMissing(text)


class Stored(NamedTuple):
    """The record of an erasure, as it is stored."""

    idx: int
    entry: bytes
    leaf: bytes
    commitments: bytes
    groups: bytes

    def remedy(self) -> object:
        """What it says, as its entry commits to it; that the entry is the one in the tree is for others to see.

        Raises:
            ProofInvalid, Malformed: it was altered; the text names it.
        """
        try:
            salt, content = orjson.loads(self.groups)["remedy"]
            fields = record.parse_entry(self.entry)
            record.verify_groups(fields.root, self.commitments, {"remedy": (bytes.fromhex(salt), content.encode())})
            remedy: object = orjson.loads(content)
        except ProofInvalid as error:
            raise ProofInvalid(f"Record {self.idx}: {error.detail}") from error
        except (Malformed, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(self.idx) from error
        if self.leaf != leaf_hash(self.entry):
            raise ProofInvalid(f"Record {self.idx}: it is not the one that was hashed into the tree: it was altered.")
        if fields.kind != Kind.RECORDS_ERASED:
            raise ProofInvalid(f"Record {self.idx}: a column says that it is of an erasure, and it is not.")
        return remedy


_COLUMNS = ",".join(Stored._fields)
_BY_TRAIT = "trait IN (SELECT id FROM traits WHERE kind = ?)"
"""By the index that searches use."""


def stored(connection: Connection, *, by_trait: bool = True) -> Iterator[Stored]:
    """Each record of an erasure, in any order.

    Args:
        connection: reads.
        by_trait: by the index that searches use; not in a database of a version that had none.
    """
    statement = f"SELECT {_COLUMNS} FROM records WHERE {_BY_TRAIT if by_trait else 'kind = ?'}"  # noqa: S608  clauses are constants here, values are bound
    for idx, *parts in execute(connection, statement, (Kind.RECORDS_ERASED,)):
        yield Stored(int(idx), *map(bytes, parts))


def stored_at(connection: Connection, indices: Sequence[int]) -> Iterator[Stored]:
    """The records at these indices, of erasures as a search says; a few at once, in any order."""
    for place in range(0, len(indices), _FEW):
        for idx, *parts in select_in(connection, "records", _COLUMNS, "idx", indices[place : place + _FEW]):
            yield Stored(int(idx), *map(bytes, parts))


def of_records(connection: Connection, indices: Iterable[int]) -> dict[int, dict[str, int]]:
    """For each of a few records, the groups that were erased, with the index of the record that says so.

    An erasure that was altered says nothing, so that what it named counts as missing. Fails closed.

    Args:
        connection: reads.
        indices: which records; those of no erasure are left out of the answer.
    """
    sought = sorted(set(indices))
    found: dict[int, dict[str, int]] = {}
    if not sought:
        return found
    for index, bits, ranges in _whole(stored_at(connection, _touching(connection, sought))):
        groups = [name for name in GROUPS if bits & _BITS[name]]
        for first, last in ranges:
            for each in sought[bisect_left(sought, first) : bisect_right(sought, last)]:
                said = found.setdefault(each, {})
                said |= {name: min(index, said.get(name, index)) for name in groups}
    return found


def _touching(connection: Connection, sought: Sequence[int]) -> list[int]:
    """The erasures behind the first of some records that cover one of them, as far as is known, or may."""
    statement = f"SELECT idx, leaf FROM records WHERE {_BY_TRAIT} AND idx > ?"  # noqa: S608  clauses are constants here, values are bound
    rows = execute(connection, statement, (Kind.RECORDS_ERASED, sought[0]))
    return [int(idx) for idx, leaf in rows if _known.may_touch(bytes(leaf), sought)]


class _Known:
    """Which records an erasure covers, by its leaf, which is no other's: so that a page need not look at the others.

    What touches a page is verified anew each time, so an erasure that was altered meanwhile says nothing. Bounded: what
    comes when it is full is verified each time.
    """

    def __init__(self) -> None:
        self._covered: dict[bytes, tuple[array[int], array[int]]] = {}
        self._left = MOST_KNOWN

    def note(self, leaf: bytes, ranges: Sequence[tuple[int, int]]) -> None:
        """Takes in what one covers that was verified."""
        weight = len(ranges) + _WEIGHT
        if leaf not in self._covered and weight <= self._left:
            self._left -= weight
            firsts, lasts = zip(*sorted(ranges), strict=True) if ranges else ((), ())
            self._covered[leaf] = array("q", firsts), array("q", accumulate(lasts, max))

    def may_touch(self, leaf: bytes, sought: Sequence[int]) -> bool:
        """Whether one covers any of these records, which are in order, or is not known."""
        covered = self._covered.get(leaf)
        if covered is None:
            return True
        firsts, lasts = covered
        if not firsts or sought[-1] < firsts[0] or lasts[-1] < sought[0]:
            return False
        if len(firsts) < len(sought):
            return any(map(lambda first, last: bisect_left(sought, first) < bisect_right(sought, last), firsts, lasts))
        places = (bisect_right(firsts, each) for each in sought)
        return any(place and lasts[place - 1] >= each for each, place in zip(sought, places, strict=True))


_known = _Known()


def _whole(found: Iterable[Stored]) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """What those say that were not altered, with their index."""
    for each in found:
        try:
            bits, ranges = _said(each.idx, each.remedy())
        except (ProofInvalid, Malformed) as error:
            log.error("an erasure on record counts for nothing: %s", error.detail)
        else:
            _known.note(each.leaf, ranges)
            yield each.idx, bits, ranges


def _said(index: int, remedy: object) -> tuple[int, list[tuple[int, int]]]:
    """The bits of the groups, and ranges of records before `index`."""
    if not isinstance(remedy, Mapping):
        raise _unreadable(index)
    try:
        bits = sum(_BITS[name] for name in set(remedy["groups"]))
        ranges = [(int(first), int(last)) for first, last in remedy["records"]]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(index) from error
    if not all(0 <= first <= last < index for first, last in ranges):
        raise _unreadable(index)
    return bits, ranges


def _unreadable(index: int) -> Malformed:
    return Malformed(f"Record {index}, of an erasure, does not say what was erased: it was altered, or is withheld.")
