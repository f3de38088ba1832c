"""The tree of a log from its public tiles, each checked under the checkpoint before anything rests on it.

A tile is 256 neighbouring hashes of one level: of leaves on level 0, of 256**level leaves above. The last one of a
level holds fewer. The last ones of all levels hash to the root; every whole tile hashes to one hash of the level above
it. So a tile that does not fit is known by its place. Source: c2sp.org/tlog-tiles; RFC 6962 §2.1.
"""

from __future__ import annotations

from typing import Protocol

from broker.errors import Malformed, ProofInvalid
from broker.formats import merkle
from broker.formats.checkpoint import Checkpoint

SPAN = 256
"""Hashes in a whole tile."""

_HASH_BYTES = 32
_MOST_ABOVE = 1024
"""Tiles above level 0 that stay in memory, which is those of 67 million entries; others are verified again."""


class Tiles(Protocol):
    """Where tiles come from, unverified: a log, and perhaps a folder with those that were verified before."""

    def fetch(self, level: int, n: int, width: int) -> bytes:
        """The first `width` hashes of a tile, from the log."""

    def kept(self, level: int, n: int) -> bytes | None:
        """A whole tile that was kept, if there is one."""

    def keep(self, level: int, n: int, data: bytes) -> None:
        """Takes a tile that was verified."""


def path(level: int, n: int, width: int = SPAN) -> str:
    """A tile's path below the log's address: the index in groups of three digits, and the width unless it is whole."""
    groups = [f"{n % 1000:03}"]
    while n := n // 1000:
        groups.insert(0, f"x{n % 1000:03}")
    return f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < SPAN else "")


class TiledTree:
    """The tree under one checkpoint. Every hash that it gives was verified under that checkpoint. Fails closed.

    Args:
        head: the checkpoint, verified by the caller.
        tiles: where the tiles come from.

    Raises:
        ProofInvalid: the last tiles of the levels do not hash to the checkpoint's root.
    """

    def __init__(self, head: Checkpoint, tiles: Tiles) -> None:
        self.size = head.size
        self._tiles = tiles
        self._above: dict[tuple[int, int], list[bytes]] = {}
        self._last: dict[int, list[bytes]] = {}
        level = 0
        while count := self.size >> (8 * level):
            if width := count % SPAN:
                self._last[level] = _hashes(tiles.fetch(level, count // SPAN, width), level, count // SPAN, width)
            level += 1
        if self.root_at(self.size) != head.root:
            raise ProofInvalid(
                f"The log's tiles are not those of its checkpoint: the last ones do not hash to the root of the "
                f"{self.size} entries. An entry from {self.size // SPAN * SPAN} on was altered, removed or moved, "
                "or a hash above those before."
            )
        for level, hashes in self._last.items():
            tiles.keep(level, (self.size >> (8 * level)) // SPAN, b"".join(hashes))

    def root_at(self, size: int) -> bytes:
        """The root of the tree when it had `size` entries: equal to the one of an older checkpoint, or not its tree.

        Raises:
            ProofInvalid: a tile on the way does not fit, or there are not so many entries.
        """
        if not 0 <= size <= self.size:
            raise ProofInvalid(f"The log has {self.size} entries, and not {size}.")
        return merkle.fold([self._perfect(start, end) for start, end in merkle.perfect_ranges(0, size)])

    def leaves(self, n: int) -> list[bytes]:
        """The hashes of the leaves from 256 · n on, 256 of them or what there is.

        Raises:
            ProofInvalid: they do not hash to what the tree has there; the text names the entries.
        """
        return self._tile(0, n)

    def first_difference(self, other: TiledTree) -> int:
        """The index of the first leaf that differs in another tree; the shorter one's size if none does so far."""
        size = min(self.size, other.size)
        for start, end in merkle.perfect_ranges(0, size):
            if self._perfect(start, end) == other._perfect(start, end):
                continue
            while end - start > 1:
                middle = (start + end) // 2
                same = self._perfect(start, middle) == other._perfect(start, middle)
                start, end = (middle, end) if same else (start, middle)
            return start
        return size

    def _perfect(self, start: int, end: int) -> bytes:
        """The hash over a perfect subtree: at most 128 neighbours of one tile."""
        level = ((end - start).bit_length() - 1) // 8
        first, count = start >> (8 * level), (end - start) >> (8 * level)
        place = first % SPAN
        return merkle.root_of(self._tile(level, first // SPAN)[place : place + count])

    def _tile(self, level: int, n: int) -> list[bytes]:
        if n == (self.size >> (8 * level)) // SPAN:
            return self._last[level]
        found = self._above.get((level, n))
        if found is None:
            found = self._verified(level, n)
            if level > 0 and len(self._above) < _MOST_ABOVE:
                self._above[level, n] = found
        return found

    def _verified(self, level: int, n: int) -> list[bytes]:
        stated = self._tile(level + 1, n // SPAN)[n % SPAN]
        kept = self._tiles.kept(level, n)
        if kept is not None and len(kept) == SPAN * _HASH_BYTES:
            hashes = _hashes(kept, level, n, SPAN)
            if merkle.root_of(hashes) == stated:
                return hashes
        data = self._tiles.fetch(level, n, SPAN)
        hashes = _hashes(data, level, n, SPAN)
        if merkle.root_of(hashes) != stated:
            span = SPAN ** (level + 1)
            raise ProofInvalid(
                f"The log's {path(level, n)} is not the one of its checkpoint of {self.size} entries: of the entries "
                f"{n * span} to {(n + 1) * span - 1} one was altered, removed or moved, or a hash above them."
            )
        self._tiles.keep(level, n, data)
        return hashes


def _hashes(data: bytes, level: int, n: int, width: int) -> list[bytes]:
    if len(data) != width * _HASH_BYTES:
        raise Malformed(f"The log's {path(level, n, width)} holds {len(data)} bytes instead of {width * _HASH_BYTES}.")
    return [data[at : at + _HASH_BYTES] for at in range(0, len(data), _HASH_BYTES)]
