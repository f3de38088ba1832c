"""The Merkle tree, held to others' proofs and to the recursive definition of RFC 6962."""

from __future__ import annotations

import base64
import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import ProofInvalid
from broker.formats import merkle
from tests.vectors import vectors

LEAVES = [merkle.leaf_hash(b"entry %d" % number) for number in range(70)]


def slow_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word by word."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else hashlib.sha256().digest()
    k = max(2**power for power in range(10) if 2**power < len(leaves))
    return hashlib.sha256(b"\x01" + slow_root(leaves[:k]) + slow_root(leaves[k:])).digest()


def hash_of(start: int, end: int) -> bytes:
    """The hash over some of `LEAVES`."""
    return slow_root(LEAVES[start:end])


def given_vectors(kind: str) -> list[dict[str, Any]]:
    """The proofs of transparency-dev/merkle."""
    found: list[dict[str, Any]] = json.loads(vectors(f"merkle/{kind}.json").read_text())
    assert len(found) == 98
    return found


def proof_of(vector: dict[str, Any]) -> list[bytes]:
    """A vector's proof as bytes."""
    return [base64.b64decode(item) for item in vector["proof"] or []]


def test_inclusion_vectors() -> None:
    """All 98 inclusion proofs of transparency-dev/merkle are judged as their authors say."""
    for vector in given_vectors("inclusion"):
        leaf, root = base64.b64decode(vector["leafHash"]), base64.b64decode(vector["root"])
        refused = False
        try:
            merkle.verify_inclusion(vector["leafIdx"], vector["treeSize"], leaf, proof_of(vector), root)
        except ProofInvalid:
            refused = True
        assert refused is vector["wantErr"], vector["case"]


def test_consistency_vectors() -> None:
    """All 98 consistency proofs of transparency-dev/merkle are judged as their authors say."""
    for vector in given_vectors("consistency"):
        root1, root2 = base64.b64decode(vector["root1"]), base64.b64decode(vector["root2"])
        refused = False
        try:
            merkle.verify_consistency(vector["size1"], vector["size2"], proof_of(vector), root1, root2)
        except ProofInvalid:
            refused = True
        assert refused is vector["wantErr"], vector["case"]


def test_the_empty_tree() -> None:
    """RFC 6962 §2.1: the root of no leaves is the hash of nothing."""
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert merkle.empty_root() == merkle.EMPTY_ROOT == merkle.root_of([]) == bytes.fromhex(empty)
    assert merkle.Frontier().root() == merkle.fold([]) == merkle.EMPTY_ROOT


def test_a_leaf_never_looks_like_a_node() -> None:
    """The prefixes differ, so a leaf made of two hashes is not the node over them."""
    left, right = LEAVES[:2]
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)
    assert merkle.leaf_hash(b"") == hashlib.sha256(b"\x00").digest()


@pytest.mark.parametrize("size", range(1, 70))
def test_roots_at_every_size(size: int) -> None:
    """At once, leaf by leaf, and from stored nodes: every way to a root gives that of RFC 6962."""
    growing = merkle.Frontier()
    for leaf in LEAVES[:size]:
        growing.append(leaf)
    stored = merkle.Frontier.from_nodes(size, hash_of)
    assert merkle.root_of(LEAVES[:size]) == growing.root() == stored.root() == hash_of(0, size)
    assert (growing.size, growing.hashes) == (stored.size, stored.hashes)


def test_a_frontier_copy_grows_by_itself() -> None:
    """What is appended to a copy does not reach the first."""
    first = merkle.Frontier.from_nodes(5, hash_of)
    second = first.copy()
    second.append(LEAVES[5])
    assert (first.root(), second.root()) == (hash_of(0, 5), hash_of(0, 6))


@pytest.mark.parametrize(
    ("size", "hashes"), [(1, []), (0, [bytes(32)]), (3, [bytes(32)]), (1, [bytes(31)]), (-1, [bytes(32)])]
)
def test_a_frontier_that_does_not_fit_its_size_is_refused(size: int, hashes: list[bytes]) -> None:
    """A damaged right edge is refused before anything is appended to it."""
    with pytest.raises(ProofInvalid):
        merkle.Frontier(size, hashes)


@given(st.data())
def test_inclusion_is_proved_and_only_of_the_leaf_that_is_there(data: st.DataObject) -> None:
    """Every leaf of every size proves itself; at another place, size or root, or with a changed proof, it does not."""
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    proof, root = merkle.inclusion_proof(index, size, hash_of), hash_of(0, size)
    merkle.verify_inclusion(index, size, LEAVES[index], proof, root)
    wrong: list[tuple[int, int, bytes, list[bytes], bytes]] = [
        (index, size, LEAVES[(index + 1) % 70], proof, root),
        (index, size, LEAVES[index], [*proof, bytes(32)], root),
        (index, size, LEAVES[index], proof, bytes(32)),
        (size, size, LEAVES[index], proof, root),
        (-1, size, LEAVES[index], proof, root),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        wrong.append((index, size, LEAVES[index], [*proof[:at], flipped, *proof[at + 1 :]], root))
        wrong.append((index, size, LEAVES[index], [*proof[:at], *proof[at + 1 :]], root))
        wrong.append((index ^ 1, size, LEAVES[index], proof, root))
    for case in wrong:
        with pytest.raises(ProofInvalid):
            merkle.verify_inclusion(*case)


@given(st.data())
def test_consistency_is_proved_and_only_of_a_true_beginning(data: st.DataObject) -> None:
    """Every pair of sizes proves itself; with another root, size or proof it does not."""
    size2 = data.draw(st.integers(1, 70))
    size1 = data.draw(st.integers(1, size2))
    proof = merkle.consistency_proof(size1, size2, hash_of)
    root1, root2 = hash_of(0, size1), hash_of(0, size2)
    merkle.verify_consistency(size1, size2, proof, root1, root2)
    wrong: list[tuple[int, int, list[bytes], bytes, bytes]] = [
        (size1, size2, proof, bytes(32), root2),
        (size1, size2, proof, root1, bytes(32)),
        (size1, size2, [*proof, bytes(32)], root1, root2),
        (0, size2, proof, merkle.EMPTY_ROOT, root2),
        (size2 + 1, size2, proof, root1, root2),
    ]
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        flipped = proof[at][:-1] + bytes([proof[at][-1] ^ 128])
        wrong.append((size1, size2, [*proof[:at], flipped, *proof[at + 1 :]], root1, root2))
        wrong.append((size1, size2, proof[:-1], root1, root2))
    for case in wrong:
        with pytest.raises(ProofInvalid):
            merkle.verify_consistency(*case)


@given(st.data())
def test_ranges_are_what_a_log_stores(data: st.DataObject) -> None:
    """Each range of a proof is a perfect subtree, or the right edge whose perfect subtrees fold into its hash."""
    size = data.draw(st.integers(1, 70))
    index = data.draw(st.integers(0, size - 1))
    ranges = merkle.inclusion_ranges(index, size) + merkle.consistency_ranges(index + 1, size)
    for start, end in ranges:
        parts = merkle.perfect_ranges(start, end)
        assert (parts[0][0], parts[-1][1]) == (start, end)
        assert all(left[1] == right[0] for left, right in pairwise(parts))
        assert all((b - a).bit_count() == 1 and a % (b - a) == 0 for a, b in parts)
        assert len(parts) == 1 or end == size
        assert merkle.fold([hash_of(a, b) for a, b in parts]) == hash_of(start, end)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 5), (5, 5)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    """Asking for it is refused, not answered with nonsense."""
    with pytest.raises(ProofInvalid):
        merkle.inclusion_ranges(index, size)


@pytest.mark.parametrize(("size1", "size2"), [(0, 5), (6, 5), (-1, 5), (0, 0)])
def test_there_is_no_proof_between_such_sizes(size1: int, size2: int) -> None:
    """The empty tree proves nothing, and a tree never shrinks."""
    with pytest.raises(ProofInvalid):
        merkle.consistency_ranges(size1, size2)


def test_hashes_of_another_length_are_refused() -> None:
    """A leaf, root or proof hash that is not 32 bytes could be cut differently; none is taken."""
    with pytest.raises(ProofInvalid):
        merkle.verify_inclusion(0, 2, LEAVES[0], [LEAVES[1] + b"\x00"], hash_of(0, 2))
    with pytest.raises(ProofInvalid):
        merkle.verify_consistency(1, 2, [LEAVES[1][:31]], LEAVES[0], hash_of(0, 2))
