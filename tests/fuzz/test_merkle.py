"""Merkle trees of any shape, held to RFC 6962 as it is written, and proofs that any damage breaks."""

from __future__ import annotations

import hashlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from broker.formats import merkle
from tests.fuzz.outcome import effort, holds

MOST = 200
LEAVES = [hashlib.sha256(b"leaf %d" % number).digest() for number in range(MOST)]


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(count: int) -> int:
    k = 1
    while k * 2 < count:
        k *= 2
    return k


def _mth(leaves: list[bytes]) -> bytes:
    """MTH(D[n]) of RFC 6962 §2.1, over leaf hashes."""
    if len(leaves) == 1:
        return leaves[0]
    k = _split(len(leaves))
    return _node(_mth(leaves[:k]), _mth(leaves[k:]))


def _path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH(m, D[n]) of §2.1.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*_path(m, leaves[:k]), _mth(leaves[k:])]
    return [*_path(m - k, leaves[k:]), _mth(leaves[:k])]


def _subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b) of §2.1.2."""
    if m == len(leaves):
        return [] if whole else [_mth(leaves)]
    k = _split(len(leaves))
    if m <= k:
        return [*_subproof(m, leaves[:k], whole), _mth(leaves[k:])]
    return [*_subproof(m - k, leaves[k:], False), _mth(leaves[:k])]


@st.composite
def flipped(draw: st.DrawFn, hashes: list[bytes]) -> list[bytes]:
    """Hashes with one bit of one of them changed."""
    at, bit = draw(st.integers(0, len(hashes) - 1)), draw(st.integers(0, 255))
    changed = bytearray(hashes[at])
    changed[bit // 8] ^= 1 << bit % 8
    return [*hashes[:at], bytes(changed), *hashes[at + 1 :]]


@st.composite
def relisted(draw: st.DrawFn, hashes: list[bytes]) -> list[bytes]:
    """A proof with a hash too many, one missing, or two in another order."""
    listed = list(hashes)
    at = draw(st.integers(0, len(hashes)))
    match draw(st.sampled_from(["more", "fewer", "turned"])):
        case "fewer" if hashes:
            del listed[at % len(hashes)]
        case "turned" if len(hashes) > 1:
            listed[at % len(hashes)], listed[at - 1] = listed[at - 1], listed[at % len(hashes)]
        case _:
            listed.insert(at, draw(st.sampled_from([*hashes, bytes(32), b"", bytes(31), bytes(33)])))
    return listed


def _holds(index: int, size: int, leaf: bytes, proof: list[bytes], root: bytes) -> bool:
    return holds(lambda: merkle.verify_inclusion(index, size, leaf, proof, root))


def _grows(size1: int, size2: int, proof: list[bytes], root1: bytes, root2: bytes) -> bool:
    return holds(lambda: merkle.verify_consistency(size1, size2, proof, root1, root2))


@effort(150)
@given(st.integers(1, MOST), st.data())
def test_inclusion_is_rfc_6962_and_breaks_with_any_damage(size: int, data: st.DataObject) -> None:
    """The proof is the RFC's, it verifies, and with one bit, one hash or one place changed it does not."""
    index = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    root, proof = _mth(leaves), _path(index, leaves)
    assert merkle.root_of(leaves) == root
    assert merkle.inclusion_proof(index, size, lambda start, end: _mth(leaves[start:end])) == proof
    assert _holds(index, size, leaves[index], proof, root)
    *broken, leaf, top = data.draw(flipped([*proof, leaves[index], root]))
    assert not _holds(index, size, leaf, broken, top)
    listed = data.draw(relisted(proof))
    assert _holds(index, size, leaves[index], listed, root) is (listed == proof)
    other = data.draw(st.integers(-1, size + 1))
    assert _holds(other, size, leaves[index], proof, root) is (other == index)


@effort(150)
@given(st.integers(1, MOST), st.data())
def test_consistency_is_rfc_6962_and_breaks_with_any_damage(size2: int, data: st.DataObject) -> None:
    """The proof is the RFC's, it verifies, and with one bit, one hash or the old size changed it does not."""
    size1 = data.draw(st.integers(1, size2))
    leaves = LEAVES[:size2]
    root1, root2, proof = _mth(leaves[:size1]), _mth(leaves), _subproof(size1, leaves, True)
    assert merkle.consistency_proof(size1, size2, lambda start, end: _mth(leaves[start:end])) == proof
    assert _grows(size1, size2, proof, root1, root2)
    *broken, old, new = data.draw(flipped([*proof, root1, root2]))
    assert not _grows(size1, size2, broken, old, new)
    listed = data.draw(relisted(proof))
    assert _grows(size1, size2, listed, root1, root2) is (listed == proof)
    other = data.draw(st.integers(-1, size2 + 1).filter(lambda found: found != size1))
    assert not _grows(other, size2, proof, root1, root2)


@effort(100)
@given(st.integers(0, MOST), st.lists(st.integers(0, 40), max_size=5))
def test_a_tree_grows_the_same_however_it_is_fed(start: int, steps: list[int]) -> None:
    """Leaf by leaf, from a copy, or from what was stored: at each size the root of the RFC."""
    size = min(start, MOST)
    growing = merkle.Frontier.from_nodes(size, lambda a, b: _mth(LEAVES[a:b]))
    for step in steps:
        for leaf in LEAVES[size : size + step]:
            growing.append(leaf)
        size = min(size + step, MOST)
        growing = growing.copy()
        assert (growing.size, growing.root()) == (size, _mth(LEAVES[:size]) if size else merkle.EMPTY_ROOT)
        assert growing.hashes == [_mth(LEAVES[a:b]) for a, b in merkle.perfect_ranges(0, size)]


@effort(100)
@given(
    st.integers(-2, 2**64),
    st.integers(-2, 2**64),
    st.lists(st.binary(max_size=33), max_size=70),
    st.binary(max_size=33),
)
def test_no_numbers_make_verification_fail_otherwise(a: int, b: int, proof: list[bytes], root: bytes) -> None:
    """Positions and sizes of any kind are refused like any proof that does not fit."""
    assert not _holds(a, b, root, proof, b"x" * 32)
    if a != b or proof:
        assert not _grows(a, b, proof, root, b"x" * 32)


@effort(100)
@given(st.integers(1, 2**63), st.data())
def test_a_proof_is_short_at_any_size(size: int, data: st.DataObject) -> None:
    """At most one hash a level, and one more: no size makes a proof long."""
    index = data.draw(st.integers(0, size - 1))
    assert len(merkle.inclusion_ranges(index, size)) <= size.bit_length()
    assert len(merkle.consistency_ranges(index + 1, size)) <= size.bit_length() + 1
    covered = sorted([*merkle.inclusion_ranges(index, size), (index, index + 1)])
    assert covered[0][0] == 0
    assert covered[-1][1] == size
    assert all(first[1] == second[0] for first, second in pairwise(covered))
