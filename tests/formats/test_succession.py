"""One log key is followed by another: who may go on from which key, for trees of which sizes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint, note, succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from broker.formats.succession import Succession
from tests.formats.forge import ed25519

ORIGIN = "example.com/log"
FIRST, SECOND, THIRD, THIEF = (NoteSigner(ORIGIN, ed25519(name)) for name in ("first", "second", "third", "thief"))
ROOT = b"r" * 32


def _said(old: NoteSigner, new: NoteSigner, size: int) -> Succession:
    return Succession(ORIGIN, old.vkey, new.vkey, size, ROOT)


def _follows(old: NoteSigner, new: NoteSigner, size: int) -> str:
    return succession.sign(_said(old, new, size), old, new)


STATEMENTS = (_follows(FIRST, SECOND, 100), _follows(SECOND, THIRD, 200))


def _opened(
    pinned: NoteSigner, size: int, *signers: NoteSigner, statements: tuple[str, ...] = STATEMENTS
) -> Checkpoint:
    signed = checkpoint.sign(Checkpoint(ORIGIN, size, ROOT), *signers)
    return checkpoint.open_signed(signed, succession.key_for(signed, NoteVerifier.parse(pinned.vkey), statements))


def test_a_statement_says_what_was_signed() -> None:
    """It comes back as it went in, under the two keys that it names."""
    assert succession.open_signed(STATEMENTS[0]) == _said(FIRST, SECOND, 100)


@pytest.mark.parametrize("pinned", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize(
    ("signer", "sizes"), [(FIRST, (1, 100)), (SECOND, (100, 200)), (THIRD, (200, 2**40))], ids=["1", "2", "3"]
)
def test_from_any_key_all_of_them_are_reached(pinned: NoteSigner, signer: NoteSigner, sizes: tuple[int, int]) -> None:
    """Forwards and backwards, whatever order the statements come in."""
    for size in sizes:
        for statements in permutations(STATEMENTS):
            assert _opened(pinned, size, signer, statements=statements).size == size


@pytest.mark.parametrize("pinned", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize(("signer", "size"), [(FIRST, 101), (SECOND, 99), (SECOND, 201), (THIRD, 199)])
def test_a_key_counts_for_the_trees_of_its_time_alone(pinned: NoteSigner, signer: NoteSigner, size: int) -> None:
    """A key stolen after it was followed makes no newer trees, and a new one no older, also for those who pinned it."""
    with pytest.raises(ProofInvalid, match="Neither the key that you pinned"):
        _opened(pinned, size, signer)


@pytest.mark.parametrize("pinned", [FIRST, SECOND, THIRD])
@pytest.mark.parametrize(
    ("signers", "size"), [((FIRST,), 100), ((SECOND,), 100), ((SECOND, FIRST), 100), ((THIRD,), 200)]
)
def test_the_tree_of_a_handover_is_the_one_that_both_keys_signed(
    pinned: NoteSigner, signers: tuple[NoteSigner, ...], size: int
) -> None:
    """Another tree of the very size at which a key was followed contradicts the statement, whoever signed it."""
    forged = checkpoint.sign(Checkpoint(ORIGIN, size, b"f" * 32), *signers)
    with pytest.raises(ProofInvalid, match="two stories"):
        succession.key_for(forged, NoteVerifier.parse(pinned.vkey), STATEMENTS)


def test_while_both_sign_who_pinned_the_old_key_needs_no_statement() -> None:
    """In the overlap a checkpoint carries both signatures: verifiers that do not follow go on."""
    assert _opened(FIRST, 150, SECOND, FIRST, statements=()).size == 150
    assert _opened(FIRST, 150, SECOND, FIRST).size == 150
    assert _opened(SECOND, 150, SECOND, FIRST, statements=()).size == 150


def test_without_statements_the_pinned_key_is_the_only_one() -> None:
    """What nobody showed is not followed."""
    assert _opened(FIRST, 100, FIRST, statements=()).size == 100
    with pytest.raises(ProofInvalid, match="/log/keys"):
        _opened(FIRST, 150, SECOND, statements=())


@pytest.mark.parametrize("signers", [(FIRST, THIEF), (THIEF, SECOND), (THIEF, THIEF)])
def test_both_keys_must_sign(signers: tuple[NoteSigner, NoteSigner]) -> None:
    """A successor that names itself, or is named by another key, is none."""
    forged = succession.sign(_said(FIRST, SECOND, 100), *signers)
    with pytest.raises(ProofInvalid, match="does not verify"):
        _opened(FIRST, 150, SECOND, statements=(forged,))


def test_an_altered_statement_is_refused() -> None:
    """Any of its lines: the keys, the size and the tree are what was signed."""
    for old, new in ((":100\n", ":"), ("\n100\n", "\n99\n"), (ORIGIN, "example.org/log"), (" v1", " v2")):
        altered = STATEMENTS[0].replace(old, new)
        if altered != STATEMENTS[0]:
            with pytest.raises(ProofInvalid, match="does not verify"):
                _opened(FIRST, 150, SECOND, statements=(altered,))


def test_two_successors_are_the_proof_of_two_stories() -> None:
    """A stolen key that names another successor is not followed anywhere, and the text says to keep both."""
    rival = _follows(FIRST, THIEF, 100)
    for signer in (SECOND, THIEF):
        with pytest.raises(ProofInvalid, match="Keep both statements"):
            _opened(FIRST, 150, signer, statements=(STATEMENTS[0], rival))


def test_a_second_statement_of_the_same_succession_at_another_size_is_a_rival() -> None:
    """Two sizes for one handover contradict each other."""
    with pytest.raises(ProofInvalid, match="Keep both statements"):
        _opened(FIRST, 150, SECOND, statements=(STATEMENTS[0], _follows(FIRST, SECOND, 90)))


def test_keys_in_a_circle_or_backwards_are_refused() -> None:
    """A key that comes back, or takes over before the one before it did."""
    with pytest.raises(ProofInvalid, match="circle"):
        _opened(FIRST, 300, THIRD, statements=(_follows(FIRST, SECOND, 100), _follows(SECOND, FIRST, 200)))
    with pytest.raises(ProofInvalid, match="backwards"):
        _opened(FIRST, 300, THIRD, statements=(_follows(FIRST, SECOND, 100), _follows(SECOND, THIRD, 50)))


def test_another_logs_statements_lead_nowhere() -> None:
    """Keys are named for their log; a statement about another log counts for nothing here."""
    elsewhere = [NoteSigner("other.example/log", ed25519(name)) for name in ("first", "second")]
    said = Succession("other.example/log", elsewhere[0].vkey, elsewhere[1].vkey, 100, ROOT)
    theirs = succession.sign(said, *elsewhere)
    assert _opened(FIRST, 100, FIRST, statements=(theirs,)).size == 100
    with pytest.raises(ProofInvalid, match="named for another log"):
        succession.open_signed(succession.sign(replace(_said(FIRST, SECOND, 1), origin="x"), FIRST, SECOND))


def test_neither_reads_as_the_other() -> None:
    """No statement is a checkpoint and no checkpoint a statement, though one key signs both."""
    with pytest.raises(Malformed):
        checkpoint.parse_unverified(STATEMENTS[0])
    with pytest.raises(ProofInvalid):
        succession.open_signed(checkpoint.sign(Checkpoint(ORIGIN, 100, ROOT), FIRST, SECOND))


@pytest.mark.parametrize(
    "text",
    ["", "x\n", "log-key-succession v1\n" * 6, STATEMENTS[0].partition("\n\n")[0] + "\nmore\n"],
)
def test_another_shape_is_refused(text: str) -> None:
    """Fewer lines, more lines, other lines."""
    signed = SECOND.cosign(FIRST.sign(text)) if text.endswith("\n") else text
    with pytest.raises(ProofInvalid):
        succession.open_signed(signed)


def test_a_cosigned_note_carries_both_signatures() -> None:
    """The text is the same, and each key verifies it alone."""
    both = SECOND.cosign(FIRST.sign("hello\n"))
    for signer in (FIRST, SECOND):
        assert note.verify(both, [NoteVerifier.parse(signer.vkey)]) == "hello\n"
    assert {key_id for _, key_id in note.unverified_signers(both)} == {
        NoteVerifier.parse(signer.vkey).key_id for signer in (FIRST, SECOND)
    }
    assert NoteVerifier.parse(FIRST.vkey).vkey == FIRST.vkey
