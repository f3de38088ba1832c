"""Checkpoints: the C2SP text, signed and pinned to one log."""

from __future__ import annotations

import base64

import pytest

from broker.errors import Malformed, ProofInvalid
from broker.formats import checkpoint
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests.formats.forge import ed25519

SIGNER = NoteSigner("example.com/log", ed25519())
KEY = NoteVerifier.parse(SIGNER.vkey)
HEAD = Checkpoint("example.com/log", 42, bytes(range(32)))
# The example in the text of c2sp.org/tlog-checkpoint.
C2SP = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_example_of_the_specification() -> None:
    """The specification's own checkpoint is read, and written back as it was."""
    head = checkpoint.parse(C2SP)
    assert (head.origin, head.size) == ("example.com/behind-the-sofa", 20852163)
    assert head.to_text() == C2SP


def test_a_signed_checkpoint_opens_under_its_key() -> None:
    """Origin, size and root come back."""
    signed = checkpoint.sign(HEAD, SIGNER)
    assert checkpoint.open_signed(signed, KEY) == checkpoint.parse_unverified(signed) == HEAD


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("example.com/log\n42", "example.com/lag\n42"),
        ("\n42\n", "\n43\n"),
        ("AAEC", "AAED"),
        ("\n\n", "\nmore\n\n"),
        ("42", "042"),
    ],
)
def test_altering_any_line_is_caught(old: str, new: str) -> None:
    """Origin, size and root are signed, and so is that there is nothing more."""
    signed = checkpoint.sign(HEAD, SIGNER)
    assert old in signed
    with pytest.raises(ProofInvalid):
        checkpoint.open_signed(signed.replace(old, new, 1), KEY)


def test_a_key_speaks_for_one_log() -> None:
    """A checkpoint of another origin is refused although the pinned key signed it."""
    with pytest.raises(ProofInvalid, match="another log"):
        checkpoint.open_signed(checkpoint.sign(Checkpoint("example.com/other", 1, bytes(32)), SIGNER), KEY)


def test_another_key_is_refused() -> None:
    """The same name under another key opens nothing."""
    forged = checkpoint.sign(HEAD, NoteSigner(SIGNER.name, ed25519("forger")))
    with pytest.raises(ProofInvalid):
        checkpoint.open_signed(forged, KEY)


def test_a_signed_note_that_is_no_checkpoint_is_refused() -> None:
    """The log's key under another kind of text proves nothing about the tree."""
    with pytest.raises(ProofInvalid):
        checkpoint.open_signed(SIGNER.sign("hello\n"), KEY)


def test_extension_lines_are_read_over() -> None:
    """Others may add lines (the specification allows it); they change nothing."""
    assert checkpoint.open_signed(SIGNER.sign(HEAD.to_text() + "extension\n"), KEY) == HEAD


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "", "o\n", f"o\n1\n{ROOT}", f"\n1\n{ROOT}\n", f"o\n\n{ROOT}\n", f"o\n01\n{ROOT}\n", f"o\n-1\n{ROOT}\n",
        f"o\n+1\n{ROOT}\n",
        f"o\n1 \n{ROOT}\n", f"o\n٣\n{ROOT}\n", f"o\n1_0\n{ROOT}\n", f"o\n{2**63}\n{ROOT}\n",
        f"o\n{'9' * 5000}\n{ROOT}\n",
        "o\n1\nAAAA\n", f"o\n1\n{ROOT[:-1]}\n", f"o\n1\n{ROOT}\n\n", f"o\n1\n{ROOT}\n\nx\n", f"o\n1\n{ROOT}\nx",
        "o\n1\n\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Missing or empty lines, other numerals, leading zeros, and roots of another length."""
    with pytest.raises(Malformed):
        checkpoint.parse(text)


@pytest.mark.parametrize(
    "head",
    [
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a\nb", 1, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 1, b""),
    ],
)
def test_what_is_no_checkpoint_is_not_written(head: Checkpoint) -> None:
    """An origin of two lines could forge the size; nothing of the kind is signed."""
    with pytest.raises(Malformed):
        checkpoint.sign(head, SIGNER)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("9", 9), ("10", 10), (str(2**63 - 1), 2**63 - 1)])
def test_decimals(text: str, value: int) -> None:
    """Zero, and anything without leading zeros below 2**63."""
    assert checkpoint.parse_decimal(text) == value
