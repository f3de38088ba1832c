"""The tree over the log: equal to RFC 6962 at every size, repeatable after any death, never a second history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from broker.audit.log import RecordRow, Step
from broker.audit.tree import AuditTree
from broker.db.engine import execute, insert_rows, reading, writing
from broker.errors import ConfigurationError, NotFound, ProofInvalid
from broker.formats import checkpoint, merkle
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests.audit.logs import SEALS, event, open_log, put_records, signed_by

ORIGIN = "broker.example/log"
EDGES = [1, 2, 3, 127, 128, 255, 256, 257, 511, 512, 513, 1000]
_KEY = Ed25519PrivateKey.generate()
SIGNER = NoteSigner(ORIGIN, _KEY)
VERIFIER = NoteVerifier.parse(SIGNER.vkey)


_COLUMNS = tuple(RecordRow.model_fields)


def _entry(index: int) -> bytes:
    return f"entry {index}".encode()


def _leaf(index: int) -> bytes:
    return merkle.leaf_hash(_entry(index))


def _grow(engine: Engine, size: int) -> None:
    """Puts rows with the leaves of `_leaf` behind those that are there, until there are `size`."""
    with writing(engine) as connection:
        start = connection.exec_driver_sql("SELECT count(*) FROM records").scalar_one()
        filled = {"at": 0.0, "trait": 0, "commitments": b"", "groups": b""}
        rows = [
            tuple(
                {**filled, "idx": index, "seq": index, "entry": _entry(index), "leaf": _leaf(index)}.get(name, "")
                for name in _COLUMNS
            )
            for index in range(start, size)
        ]
        put_records(connection, _COLUMNS, rows)


def _empty(engine: Engine) -> None:
    with writing(engine) as connection:
        for table in ("records", "seals", "subtrees", "log_head"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


def _opened(note: str | None) -> Checkpoint:
    assert note is not None
    return checkpoint.open_signed(note, VERIFIER)


def _check(tree: AuditTree, size: int, indices: set[int], olds: set[int]) -> None:
    """The checkpoint has this size and the right root, and inclusion and consistency proofs lead to it."""
    leaves = [_leaf(index) for index in range(size)]
    head = _opened(tree.integrate())
    assert (head.size, head.root) == (size, merkle.root_of(leaves))
    assert _opened(tree.head()) == head
    for index in indices:
        merkle.verify_inclusion(index, size, leaves[index], tree.inclusion(index, size), head.root)
    for old in olds:
        proof = tree.consistency(old, size)
        merkle.verify_consistency(old, size, proof, merkle.root_of(leaves[:old]), head.root)


@pytest.mark.parametrize("size", EDGES)
def test_every_proof_of_a_small_tree_verifies(engine: Engine, size: int) -> None:
    """Around every power of two and of 256, the first and last entries are included and old trees are its beginning."""
    _grow(engine, size)
    near = {index for edge in (0, 1, 2, 128, 255, 256, 257, 512, size - 2, size - 1) if 0 <= (index := edge) < size}
    _check(
        AuditTree(engine, signed_by(SIGNER), SEALS), size, near, {old for old in (*EDGES, size - 1) if 0 < old <= size}
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 1200), min_size=1, max_size=5), st.data())
def test_however_it_grew_the_tree_is_the_same(engine: Engine, sizes: list[int], data: st.DataObject) -> None:
    """Integrated in any steps, after every step the root and any proof are those of RFC 6962."""
    _empty(engine)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    for size in sorted(set(sizes)):
        _grow(engine, size)
        index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
        _check(tree, size, {index, size - 1}, {old, size})


def test_a_tree_of_65537_entries_in_any_steps(engine: Engine) -> None:
    """On both sides of 256² entries, integrated at once and one more at a time, everything verifies."""
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    for size in (65_535, 65_536, 65_537):
        _grow(engine, size)
        _check(tree, size, {0, 255, 256, 65_279, 65_280, size - 1}, {1, 256, 65_280, size - 1, size})
    leaves = [_leaf(index) for index in range(65_536)]
    level1 = [merkle.root_of(leaves[start : start + 256]) for start in range(0, 65_536, 256)]
    assert tree.tile(1, 0, 256) == b"".join(level1)
    assert tree.tile(2, 0, 1) == merkle.root_of(level1)
    assert tree.tile(0, 256, 1) == _leaf(65_536)


def test_a_log_without_entries_has_no_checkpoint(engine: Engine) -> None:
    """Nothing is signed over nothing, and the text says what to do."""
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    assert tree.integrate() is None
    with pytest.raises(NotFound, match="no checkpoint yet"):
        tree.head()


def test_integrating_again_changes_nothing(engine: Engine) -> None:
    """Without new entries the same checkpoint is given, byte for byte, and nothing is written."""
    _grow(engine, 300)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    first = tree.integrate()
    assert tree.integrate() == first
    assert AuditTree(engine, signed_by(SIGNER), SEALS).integrate() == first
    with reading(engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM subtrees").scalar() == 1


async def test_entries_of_the_log_are_its_leaves(engine: Engine, tmp_path: Path) -> None:
    """What the log appended is what the tree proves."""
    log = open_log(engine, tmp_path)
    await log.record(Step(tuple(event(f"{number}") for number in range(5))))
    log.close()
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    head = _opened(tree.integrate())
    with reading(engine) as session:
        rows = session.connection().exec_driver_sql("SELECT entry FROM records ORDER BY idx").scalars()
        entries = [bytes(entry) for entry in rows]
    assert head.root == merkle.root_of([merkle.leaf_hash(entry) for entry in entries])
    merkle.verify_inclusion(3, 5, merkle.leaf_hash(entries[3]), tree.inclusion(3, 5), head.root)


class _Died(Exception):
    """The process ended here."""


class _DyingSigner(NoteSigner):
    """Ends the process before or after it signs."""

    def __init__(self, *, before: bool) -> None:
        super().__init__(ORIGIN, _KEY)
        self._before = before

    def sign(self, text: str) -> str:
        """Dies."""
        if not self._before:
            SIGNER.sign(text)
        raise _Died


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("first", [0, 256])
def test_a_death_around_the_signature_leaves_nothing_half_done(engine: Engine, before: bool, first: int) -> None:
    """Whatever was signed and not swapped in is forgotten; the next process integrates the same entries."""
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    _grow(engine, first)
    old = tree.integrate()
    _grow(engine, 700)
    with pytest.raises(_Died):
        AuditTree(engine, signed_by(_DyingSigner(before=before)), SEALS).integrate()
    with reading(engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM subtrees").scalar() == first // 256
    if old is not None:
        assert tree.head() == old
    _check(tree, 700, {0, 255, 256, 699}, {first or 1, 256, 512})


def test_the_head_comes_with_its_subtrees(engine: Engine) -> None:
    """They are durable together: when a subtree cannot be stored, there is no checkpoint that needs it."""
    _grow(engine, 256)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    with writing(engine) as connection:  # makes the subtree's insert, and with it the swap, fail
        insert_rows(connection, "subtrees", ("level", "n", "hash"), [(1, 0, bytes(32))])
    with pytest.raises(Exception, match=r"(?i)unique"):
        tree.integrate()
    with pytest.raises(NotFound):
        tree.head()
    with writing(engine) as connection:
        connection.exec_driver_sql("DELETE FROM subtrees")
    _check(tree, 256, {0, 255}, {256})


class MeetingSigner(NoteSigner):
    """Does something in the moment between staging and swapping."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(ORIGIN, _KEY)
        self._meanwhile = meanwhile

    def sign(self, text: str) -> str:
        """Signs like the other one, after the meeting."""
        self._meanwhile()
        return SIGNER.sign(text)


@pytest.mark.parametrize("start", [0, 300])
def test_of_two_integrators_one_wins(engine: Engine, start: int) -> None:
    """Two integrate the same entries: the slower one's checkpoint is discarded, both give the one that is stored."""
    winner = AuditTree(engine, signed_by(SIGNER), SEALS)
    _grow(engine, start)
    winner.integrate()
    _grow(engine, 600)
    stored: list[str | None] = []
    loser = AuditTree(engine, signed_by(MeetingSigner(lambda: stored.append(winner.integrate()))), SEALS)
    assert loser.integrate() == stored[0]
    _check(winner, 600, {0, 599}, {256, 512})


def test_a_slow_integrator_never_shrinks_the_head(engine: Engine) -> None:
    """One that staged a smaller log does not replace the larger head that another has stored meanwhile."""
    _grow(engine, 300)
    fast = AuditTree(engine, signed_by(SIGNER), SEALS)

    def meanwhile() -> None:
        if not sizes:
            _grow(engine, 900)
            sizes.append(_opened(fast.integrate()).size)

    sizes: list[int] = []
    slow = AuditTree(engine, signed_by(MeetingSigner(meanwhile)), SEALS)
    assert _opened(slow.integrate()).size == 900
    _check(fast, 900, {0, 299, 899}, {300, 768})


def test_many_integrators_at_once_agree(engine: Engine) -> None:
    """Threads that integrate while the log grows leave one history."""
    trees = [AuditTree(engine, signed_by(SIGNER), SEALS) for _ in range(4)]
    for size in range(100, 1100, 250):
        _grow(engine, size)
        threads = [threading.Thread(target=tree.integrate) for tree in trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _check(trees[0], size, {0, size - 1}, {1, size})


@pytest.mark.parametrize("size", [300, 512])
def test_removed_entries_are_noticed_and_told(engine: Engine, size: int) -> None:
    """A log shorter than its checkpoint is no log to sign for: the text names both sizes and what to do."""
    _grow(engine, size)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    head = tree.integrate()
    with writing(engine) as connection:
        connection.exec_driver_sql(f"DELETE FROM records WHERE idx >= {size - 1}")
    with pytest.raises(ProofInvalid, match=rf"holds {size - 1} entries but its last checkpoint covers {size}.*backup"):
        tree.integrate()
    assert tree.head() == head


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("UPDATE records SET leaf = {other} WHERE idx = 299", id="last"),
        pytest.param("UPDATE records SET leaf = {other} WHERE idx = 256", id="first of the open tile"),
        pytest.param("UPDATE subtrees SET hash = {other} WHERE n = 0", id="a stored subtree"),
    ],
)
def test_no_second_history_is_signed(engine: Engine, attack: str) -> None:
    """Entries that were replaced, or removed and written over by new ones, stop the log: the old checkpoint stays."""
    _grow(engine, 300)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    head = tree.integrate()
    with writing(engine) as connection:
        execute(connection, attack.format(other="?"), (b"\xab" * 32,))
    _grow(engine, 301)
    with pytest.raises(ProofInvalid, match="first 300 entries are not those of the last checkpoint"):
        tree.integrate()
    assert tree.head() == head


@pytest.mark.parametrize(
    ("gone", "said"), [(256, "rows were removed"), (299, "rows were removed"), (300, r"Record 300 .*\(missing\)")]
)
def test_a_hole_is_noticed(engine: Engine, gone: int, said: str) -> None:
    """An entry missing in the middle, checkpointed or not, is an error with a text, not a shorter tree."""
    _grow(engine, 300)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    _grow(engine, 302)
    with writing(engine) as connection:
        connection.exec_driver_sql(f"DELETE FROM records WHERE idx = {gone}")
    with pytest.raises(ProofInvalid, match=said):
        tree.integrate()


def test_a_missing_subtree_proves_nothing(engine: Engine) -> None:
    """Without a stored subtree the proofs that need it are refused, and nothing wrong is given in its place."""
    _grow(engine, 1024)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    with writing(engine) as connection:
        connection.exec_driver_sql("DELETE FROM subtrees WHERE n = 1")
    with pytest.raises(ProofInvalid, match="level 1: rows were removed"):
        tree.inclusion(0, 1024)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (0, 4), (5, 4)])
def test_there_is_no_proof_of_what_is_not_there(engine: Engine, index: int, size: int) -> None:
    """Outside the tree, or in a tree that does not exist, nothing is included."""
    _grow(engine, 3)
    with pytest.raises(NotFound):
        AuditTree(engine, signed_by(SIGNER), SEALS).inclusion(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 3), (-1, 3), (3, 2), (3, 4), (4, 4)])
def test_there_is_no_consistency_with_what_is_not_there(engine: Engine, old: int, new: int) -> None:
    """Sizes that no tree has, or in the wrong order, have no proof."""
    _grow(engine, 3)
    with pytest.raises(NotFound):
        AuditTree(engine, signed_by(SIGNER), SEALS).consistency(old, new)


def test_tiles_hold_what_the_tree_does(engine: Engine) -> None:
    """Whole and partial tiles on every level are the tree's hashes; wider ones than the checkpoint's do not exist."""
    _grow(engine, 600)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    _grow(engine, 800)  # not under the checkpoint
    leaves = [_leaf(index) for index in range(600)]
    assert tree.tile(0, 0, 256) == b"".join(leaves[:256])
    assert tree.tile(0, 2, 88) == b"".join(leaves[512:])
    assert tree.tile(0, 2, 1) == leaves[512]
    assert tree.tile(1, 0, 2) == merkle.root_of(leaves[:256]) + merkle.root_of(leaves[256:512])


_BEYOND = [(0, 2, 89), (0, 2, 256), (0, 3, 1), (1, 0, 3), (2, 0, 1), (8, 0, 1)]
_NOWHERE = [(-1, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)]


@pytest.mark.parametrize(("level", "n", "width"), _BEYOND + _NOWHERE)
def test_there_is_no_tile_beyond_the_checkpoint(engine: Engine, level: int, n: int, width: int) -> None:
    """A tile that the newest checkpoint does not cover, or that no tree has, is not there."""
    _grow(engine, 600)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    _grow(engine, 800)
    with pytest.raises(NotFound):
        tree.tile(level, n, width)


def test_a_log_goes_on_under_its_own_key_only(engine: Engine) -> None:
    """A log whose checkpoint another key signed is not gone on with; one without a checkpoint has no key yet."""
    other = NoteSigner(ORIGIN, Ed25519PrivateKey.generate())
    AuditTree(engine, signed_by(other), SEALS).check_key()
    _grow(engine, 3)
    AuditTree(engine, signed_by(SIGNER), SEALS).integrate()
    AuditTree(engine, signed_by(SIGNER), SEALS).check_key()
    with pytest.raises(ConfigurationError, match=r"not signed by the log's key"):
        AuditTree(engine, signed_by(other), SEALS).check_key()


def test_an_old_checkpoint_stays_provable(engine: Engine) -> None:
    """An auditor who kept a checkpoint proves every later one to continue it."""
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    kept: list[Checkpoint] = []
    for size in (1, 200, 256, 500, 777):
        _grow(engine, size)
        kept.append(_opened(tree.integrate()))
        for old in kept:
            merkle.verify_consistency(old.size, size, tree.consistency(old.size, size), old.root, kept[-1].root)
