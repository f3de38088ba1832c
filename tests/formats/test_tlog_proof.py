"""Proofs that stand alone (C2SP tlog-proof)."""

from __future__ import annotations

import pytest

from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint, merkle, tlog_proof
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests.formats.forge import ed25519

ENTRIES = [b"entry %d" % number for number in range(13)]
LEAVES = [merkle.leaf_hash(entry) for entry in ENTRIES]
SIGNER = NoteSigner("example.com/log", ed25519())
KEY = NoteVerifier.parse(SIGNER.vkey)
SIGNED = checkpoint.sign(Checkpoint("example.com/log", 13, merkle.root_of(LEAVES)), SIGNER)


def hashes(index: int, size: int = 13) -> list[bytes]:
    """The inclusion proof of an entry."""
    return merkle.inclusion_proof(index, size, lambda start, end: merkle.root_of(LEAVES[start:end]))


def proof(index: int = 5, *, extra: bytes = b"") -> str:
    """A whole proof."""
    return tlog_proof.write(index, hashes(index), SIGNED, extra=extra)


def test_the_shape_of_the_specification() -> None:
    """Header, extra, index, hashes, an empty line and the checkpoint, as c2sp.org/tlog-proof has them."""
    lines = proof(5, extra=b"more").split("\n")
    assert lines[:3] == ["c2sp.org/tlog-proof@v1", "extra bW9yZQ==", "index 5"]
    assert lines[3 + len(hashes(5))] == ""
    assert proof(5).split("\n")[1] == "index 5"
    assert proof(5).endswith("\n\n" + SIGNED)


@pytest.mark.parametrize("index", range(13))
def test_every_entry_proves_itself_offline(index: int) -> None:
    """The text, the leaf hash and the pinned key are all it takes."""
    proved = tlog_proof.verify(proof(index), LEAVES[index], KEY)
    assert proved == tlog_proof.Proved(index, 13, "example.com/log", merkle.root_of(LEAVES))


def test_the_only_entry_of_a_log_needs_no_hashes() -> None:
    """A proof without hash lines is a proof."""
    signed = checkpoint.sign(Checkpoint("example.com/log", 1, LEAVES[0]), SIGNER)
    text = tlog_proof.write(0, [], signed)
    assert tlog_proof.verify(text, LEAVES[0], KEY).size == 1
    assert tlog_proof.parse(text) == tlog_proof.TlogProof(0, (), signed)


def test_extra_data_travels_and_proves_nothing() -> None:
    """It comes back as written; changing it changes no verdict, for nobody signed it."""
    assert tlog_proof.parse(proof(extra=b"\x00more")).extra == b"\x00more"
    assert tlog_proof.verify(proof(extra=b"more"), LEAVES[5], KEY) == tlog_proof.verify(proof(), LEAVES[5], KEY)


def test_every_altered_character_is_caught() -> None:
    """No single character can change unseen, from the header to the last signature."""
    text = proof()
    for at in range(len(text)):
        for changed in (text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :], text[:at] + text[at + 1 :]):
            with pytest.raises(ProofInvalid):
                tlog_proof.verify(changed, LEAVES[5], KEY)


@pytest.mark.parametrize("index", [4, 6, 12, 13, 2**62])
def test_another_position_is_refused(index: int) -> None:
    """The position is proved, not only that the entry is somewhere."""
    with pytest.raises(ProofInvalid):
        tlog_proof.verify(tlog_proof.write(index, hashes(5), SIGNED), LEAVES[5], KEY)


def test_another_entry_log_or_key_is_refused() -> None:
    """Each of the three that the auditor brings decides."""
    with pytest.raises(ProofInvalid):
        tlog_proof.verify(proof(), LEAVES[6], KEY)
    for name, key in (("example.com/log", "forger"), ("example.com/other", "honest")):
        with pytest.raises(ProofInvalid):
            tlog_proof.verify(proof(), LEAVES[5], NoteVerifier.parse(NoteSigner(name, ed25519(key)).vkey))


HASH = "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        "", "c2sp.org/tlog-proof@v1\n", f"c2sp.org/tlog-proof@v2\nindex 0\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nindex 00\n\n{SIGNED}", f"c2sp.org/tlog-proof@v1\nindex -1\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nindex\n\n{SIGNED}", f"c2sp.org/tlog-proof@v1\n0\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nextra \nindex 0\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nextra %\nindex 0\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA\n\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n\n{SIGNED}", f"c2sp.org/tlog-proof@v1\r\nindex 0\r\n\r\n{SIGNED}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{(HASH + chr(10)) * 64}\n{SIGNED}",
        "c2sp.org/tlog-proof@v1\nindex 0\n" + "A" * 600_000,
    ],
)  # fmt: skip
def test_what_is_no_proof_is_refused(text: str) -> None:
    """Other versions, orders, numerals, line ends and lengths."""
    with pytest.raises(Malformed):
        tlog_proof.parse(text)
    with pytest.raises(ProofInvalid):
        tlog_proof.verify(text, LEAVES[0], KEY)


def test_what_is_no_proof_is_not_written() -> None:
    """A negative position or a cut hash is refused."""
    with pytest.raises(Malformed):
        tlog_proof.write(-1, [], SIGNED)
    with pytest.raises(Malformed):
        tlog_proof.write(0, [bytes(31)], SIGNED)
