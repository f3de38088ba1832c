"""The Merkle tree of the log: hashes, roots, proofs and their verification.

A *range* is a pair (start, end) of leaf positions, end excluded. Every range that a proof asks for is either
a perfect subtree (2**k leaves, start a multiple of 2**k) or the right edge of the tree, whose hash is `fold`
of the perfect subtrees in `perfect_ranges`. Source: RFC 6962 §2.1 to §2.1.2; RFC 9162 §2.1 for the
verification.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from broker.errors import ProofInvalid

Range = tuple[int, int]
HashOf = Callable[[int, int], bytes]
"""Takes a range's start and end, gives the 32-byte hash of the subtree over it."""

EMPTY_ROOT = hashlib.sha256(b"").digest()

_MAX_SIZE = 2**63


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry), 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), 32 bytes. The two prefixes keep a node from passing for a leaf."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def empty_root() -> bytes:
    """The root of a tree without leaves: the hash of nothing."""
    return EMPTY_ROOT


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes, in order. For many leaves that arrive one by one, use `Frontier`."""
    if not leaves:
        return EMPTY_ROOT
    level = list(leaves)
    while len(level) > 1:
        above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
    return level[0]


def fold(hashes: Sequence[bytes]) -> bytes:
    """The hash over neighbouring perfect subtrees that shrink from left to right."""
    if not hashes:
        return EMPTY_ROOT
    value = hashes[-1]
    for left in reversed(hashes[:-1]):
        value = node_hash(left, value)
    return value


def perfect_ranges(start: int, end: int) -> list[Range]:
    """The perfect subtrees that a range of a proof falls into, left to right."""
    ranges = []
    while start < end:
        width = 1 << ((end - start).bit_length() - 1)
        ranges.append((start, start + width))
        start += width
    return ranges


class Frontier:
    """The right edge of a growing tree: its size and the hashes of its perfect subtrees, and no more.

    Args:
        size: how many leaves the tree has.
        hashes: the hashes of `perfect_ranges(0, size)`.

    Raises:
        ProofInvalid: the number of hashes does not fit the size.
    """

    __slots__ = ("hashes", "size")

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        if size < 0 or len(hashes) != size.bit_count() or any(len(item) != 32 for item in hashes):
            raise ProofInvalid("The tree's right edge does not fit its size: restore the log from its last copy.")
        self.size = size
        self.hashes = list(hashes)

    @classmethod
    def from_nodes(cls, size: int, hash_of: HashOf) -> Frontier:
        """The frontier of a stored tree; asks for at most one perfect subtree per bit of `size`."""
        return cls(size, [hash_of(start, end) for start, end in perfect_ranges(0, size)])

    def append(self, leaf: bytes) -> None:
        """Adds one leaf hash. Constant work on average, and the memory of one hash per bit of the size."""
        hashes, size = self.hashes, self.size
        while size & 1:
            leaf = node_hash(hashes.pop(), leaf)
            size >>= 1
        hashes.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Adds leaf hashes, in order."""
        for leaf in leaves:
            self.append(leaf)

    def root(self) -> bytes:
        """The root over all leaves so far."""
        return fold(self.hashes)

    def copy(self) -> Frontier:
        """A second frontier that grows by itself."""
        return Frontier(self.size, self.hashes)


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """The ranges that prove leaf `index` to be in the tree of `size`, from the leaf up (RFC 6962 §2.1.1).

    Raises:
        ProofInvalid: there is no such leaf.
    """
    if not 0 <= index < size:
        raise ProofInvalid("The tree has no leaf at this position.")
    start, end = 0, size
    ranges: list[Range] = []
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    ranges.reverse()
    return ranges


def consistency_ranges(size1: int, size2: int) -> list[Range]:
    """The ranges that prove the tree of `size1` to be a beginning of that of `size2` (RFC 6962 §2.1.2).

    Raises:
        ProofInvalid: not 0 < size1 <= size2; the empty tree is a beginning of everything, so it proves
            nothing.
    """
    if not 0 < size1 <= size2:
        raise ProofInvalid("A consistency proof leads from a tree with leaves to one of the same size or larger.")
    start, end = 0, size2
    ranges: list[Range] = []
    while end > size1:
        middle = start + _split(end - start)
        if size1 <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start > 0:
        # What is left of the old tree is a subtree that the old root does not give away by itself.
        ranges.append((start, end))
    ranges.reverse()
    return ranges


def inclusion_proof(index: int, size: int, hash_of: HashOf) -> list[bytes]:
    """The inclusion proof of leaf `index`: the hashes of `inclusion_ranges`."""
    return [hash_of(start, end) for start, end in inclusion_ranges(index, size)]


def consistency_proof(size1: int, size2: int, hash_of: HashOf) -> list[bytes]:
    """The consistency proof between two sizes: the hashes of `consistency_ranges`."""
    return [hash_of(start, end) for start, end in consistency_ranges(size1, size2)]


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that the leaf hash stands at `index` in the tree of `size` under `root`. Fails closed.

    Raises:
        ProofInvalid: it does not, or the proof has another length than this position needs.
    """
    if not 0 <= index < size <= _MAX_SIZE:
        raise ProofInvalid("The tree has no leaf at this position.")
    _check_hashes(leaf, root, *proof)
    value, at, last = leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("The inclusion proof is longer than this position needs.")
        if at & 1 or at == last:
            value = node_hash(sibling, value)
            # A right edge without a sibling on some levels was lifted through them unchanged.
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        at, last = at >> 1, last >> 1
    if last != 0 or value != root:
        raise ProofInvalid("The inclusion proof does not lead to the root: the entry or the proof was altered.")


def verify_consistency(size1: int, size2: int, proof: Sequence[bytes], root1: bytes, root2: bytes) -> None:
    """Checks that the tree of `root1` is a beginning of the tree of `root2`. Fails closed.

    Raises:
        ProofInvalid: it is not, or the proof has another length than these sizes need, or not 0 < size1 <=
            size2.
    """
    if not 0 < size1 <= size2 <= _MAX_SIZE:
        raise ProofInvalid("A consistency proof leads from a tree with leaves to one of the same size or larger.")
    if size1 == size2:
        if proof or root1 != root2:
            raise ProofInvalid("Two trees of one size have two roots: the log was rewritten.")
        return
    _check_hashes(root1, root2, *proof)
    at, last = size1 - 1, size2 - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    rest = iter(proof)
    # An old tree that is one perfect subtree stands for itself; its root opens the proof.
    old = new = root1 if at == 0 else next(rest, b"")
    for item in rest:
        if last == 0:
            raise ProofInvalid("The consistency proof is longer than these sizes need.")
        if at & 1 or at == last:
            old, new = node_hash(item, old), node_hash(item, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, item)
        at, last = at >> 1, last >> 1
    if last != 0 or old != root1 or new != root2:
        raise ProofInvalid("The consistency proof does not fit: the log was rewritten, or the proof altered.")


def _split(size: int) -> int:
    """The largest power of two below `size`, for size > 1."""
    return 1 << ((size - 1).bit_length() - 1)


def _check_hashes(*hashes: bytes) -> None:
    if any(len(item) != 32 for item in hashes):
        raise ProofInvalid("Every hash of a proof must have 32 bytes.")
