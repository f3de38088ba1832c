"""Records as a broker gives them, one after the other, against the tree in which they must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from broker.errors import Malformed, ProofInvalid
from broker.formats import canonical_json, note, record
from broker.formats.merkle import leaf_hash
from broker.formats.tiles import SPAN, TiledTree


class RecordInvalid(ProofInvalid):
    """A record that is not the one in the tree, or not what it committed to; the text names it.

    Args:
        index: where.
        detail: what does not fit.
        gap: that running numbers do not follow each other there, as its entry proves in spite of that; or "".
    """

    def __init__(self, index: int, detail: str, gap: str = "") -> None:
        super().__init__(f"Record {index}: {detail}")
        self.index = index
        self.gap = gap


@dataclass(frozen=True, slots=True)
class ProvedRecord:
    """A record that is the one in the tree. Only `Records` builds one.

    Args:
        index: where.
        entry: what its entry says.
        contents: the canonical JSON of each group that is shown, as it was committed; b"" for one that is empty.
        withheld: groups that are not shown, and of which the broker says that it withholds them from this auditor.
        gap: that its agent's running numbers do not follow each other here, as a sentence; "" if they do.
    """

    index: int
    entry: record.Entry
    contents: Mapping[str, bytes]
    withheld: frozenset[str]
    gap: str = ""

    def group(self, name: str) -> Any:
        """A group that is shown, read; None for one that is empty or not shown.

        Raises:
            Malformed: it was committed to as what nobody can read.
        """
        text = self.contents.get(name, b"")
        return canonical_json.parse(text, max_bytes=len(text)) if text else None

    def groups(self) -> dict[str, Any]:
        """The groups that are shown and not empty, read.

        Raises:
            Malformed: one of them was committed to as what nobody can read.
        """
        return {name: self.group(name) for name, text in self.contents.items() if text}


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
            RecordInvalid: it does not fit; the one behind it is the next one then.
            ProofInvalid, Malformed, ApiFailed: of the tree, and nothing is known of the record, which stays the next.
        """
        index, leaf, gap = self.next, self._leaf(tree, self.next), ""
        self.next += 1
        try:
            fields = _entry(stated, index, leaf)
            before = self.last.get(fields.agent_tag, 0 if self._from_the_first else fields.seq - 1)
            self.last[fields.agent_tag] = fields.seq
            if fields.seq != before + 1:
                gap = (
                    f"Record {index} has the number {fields.seq} of its agent ({fields.agent_tag}), and the one before "
                    f"has {before}: a record is missing between them, or was put in twice."
                )
            return _proved(stated, index, fields, gap)
        except (Malformed, ProofInvalid) as error:
            raise RecordInvalid(index, error.detail, gap) from error

    def skip(self, index: int) -> None:
        """Nothing more is to be had of what stands before `index`."""
        self.next = index

    def anywhere(self, tree: TiledTree, stated: object) -> ProvedRecord | None:
        """Verifies a record that may stand anywhere in the tree, as `check` does; None for one that stands nowhere."""
        index = place_of(stated)
        if index is None or not 0 <= index < tree.size:
            return None
        leaf = self._leaf(tree, index)
        try:
            return _proved(stated, index, _entry(stated, index, leaf), "")
        except (Malformed, ProofInvalid) as error:
            raise RecordInvalid(index, error.detail) from error

    def _leaf(self, tree: TiledTree, index: int) -> bytes:
        if index >= tree.size:
            raise ProofInvalid(f"Record {index}: it is not under the checkpoint.")
        n = index // SPAN
        if n != self._n or len(self._leaves) <= index % SPAN:
            self._n, self._leaves = n, tree.leaves(n)
        return self._leaves[index % SPAN]


def place_of(stated: object) -> int | None:
    """Where a record stands, as the broker says; None if it does not say."""
    index = stated.get("index") if isinstance(stated, dict) else None
    return index if isinstance(index, int) and not isinstance(index, bool) else None


def _entry(stated: object, index: int, leaf: bytes) -> record.Entry:
    """What the entry says, once it is the tree's."""
    if not isinstance(stated, dict) or place_of(stated) != index:
        raise ProofInvalid("it is missing: the broker gives another one in its place.")
    if not isinstance(stated.get("entry"), str):
        raise _misshapen()
    entry = note.decode_base64(stated["entry"])
    if leaf_hash(entry) != leaf:
        raise ProofInvalid("it is not the one in the tree: it was altered or moved.")
    return record.parse_entry(entry)


def _proved(stated: Any, index: int, fields: record.Entry, gap: str) -> ProvedRecord:
    """The whole record, once each group that is shown is what its entry committed to."""
    try:
        groups = stated["groups"].items()
        disclosed = {name: (note.decode_base64(each["salt"]), each["content"].encode()) for name, each in groups}
        commitments = note.decode_base64(stated["commitments"])
        withheld = frozenset(map(str, stated.get("withheld", ())))
    except (KeyError, TypeError, AttributeError, UnicodeEncodeError) as error:
        raise _misshapen() from error
    record.verify_groups(fields.root, commitments, disclosed)
    contents = {name: text for name, (_, text) in disclosed.items()}
    return ProvedRecord(index, fields, contents, withheld & set(record.GROUPS) - contents.keys(), gap)


def _misshapen() -> Malformed:
    return Malformed("it has another shape than a record.")
