"""Signed notes, held to the reference implementation's published key and note."""

from __future__ import annotations

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.errors import InvalidSignature, Malformed
from broker.formats import note
from broker.formats.note import NoteSigner, NoteVerifier
from tests.formats.forge import ed25519

# The key and the note that the Go implementation, x/mod/sumdb/note, publishes in its tests.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
GO_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}"

SIGNER = NoteSigner("example.com/log", ed25519())
VERIFIER = NoteVerifier.parse(SIGNER.vkey)
OTHER = NoteSigner("example.com/other", ed25519("other"))
TEXT = "first\n\nlast: ünïcode\n"


def test_the_reference_note_verifies() -> None:
    """The Go implementation's note opens under its published verifier key."""
    assert note.verify(GO_NOTE, [NoteVerifier.parse(GO_VKEY)]) == GO_TEXT


def test_the_reference_note_is_signed_byte_for_byte() -> None:
    """Ed25519 is deterministic: the published seed gives the published note and verifier key."""
    signer = NoteSigner("PeterNeumann", Ed25519PrivateKey.from_private_bytes(GO_SEED))
    assert (signer.vkey, signer.sign(GO_TEXT)) == (GO_VKEY, GO_NOTE)


def test_what_is_signed_opens() -> None:
    """Empty lines and text beyond ASCII survive."""
    assert note.verify(SIGNER.sign(TEXT), [VERIFIER]) == TEXT


def test_every_altered_character_is_caught() -> None:
    """No single character of a note can change, go or come unseen."""
    signed = SIGNER.sign("a line\nb\n")
    for at in range(len(signed)):
        for changed in (
            signed[:at] + chr(ord(signed[at]) ^ 1) + signed[at + 1 :],
            signed[:at] + signed[at + 1 :],
            signed[:at] + "x" + signed[at:],
        ):
            if changed == signed:
                continue
            with pytest.raises((Malformed, InvalidSignature)):
                note.verify(changed, [VERIFIER])


def test_unknown_signatures_are_ignored() -> None:
    """A note counts once a known key signed it, whoever else did, before or after (the specification's MUST)."""
    strange = OTHER.sign(TEXT).rpartition("\n\n")[2]
    signed = SIGNER.sign(TEXT)
    body, _, line = signed.rpartition("\n\n")
    assert note.verify(signed + strange, [VERIFIER]) == TEXT
    assert note.verify(f"{body}\n\n{strange}{line}", [VERIFIER]) == TEXT


def test_without_a_known_signature_nothing_opens() -> None:
    """No verifier, another key under the same name, and the same key under another name open nothing."""
    signed = SIGNER.sign(TEXT)
    same_name = NoteVerifier.parse(NoteSigner(SIGNER.name, ed25519("other")).vkey)
    same_key = NoteVerifier.parse(NoteSigner("another.example", ed25519()).vkey)
    for verifiers in ([], [same_name], [same_key]):
        with pytest.raises(InvalidSignature):
            note.verify(signed, verifiers)


def test_a_known_key_that_fails_refuses_the_note() -> None:
    """One good signature does not outweigh a bad one of a known key."""
    good = SIGNER.sign(TEXT)
    bad = OTHER.sign("something else\n").rpartition("\n\n")[2]
    with pytest.raises(InvalidSignature):
        note.verify(good + bad, [VERIFIER, NoteVerifier.parse(OTHER.vkey)])


def test_at_least_sixteen_signatures_are_taken_and_endless_ones_refused() -> None:
    """The specification asks for 16; our bounds are 64 signatures and 256 KB."""
    signed = SIGNER.sign(TEXT)
    strange = OTHER.sign(TEXT).rpartition("\n\n")[2]
    assert note.verify(signed + strange * 15, [VERIFIER]) == TEXT
    for too_much in (signed + strange * 64, "a" * 300_000 + "\n" + signed):
        with pytest.raises(Malformed):
            note.verify(too_much, [VERIFIER])


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "text", "text\n", "text\n\n", "text\n\n\n", GO_NOTE[:-1], GO_NOTE + "\n", GO_NOTE.replace("—", "-"),
        GO_NOTE.replace("\n\n", "\n"), GO_NOTE.replace("— ", "—"), GO_NOTE.replace("x08go", "x08g"),
        GO_NOTE.replace("=\n", "\n"),
        GO_NOTE.replace("If", "I\x07f"), GO_NOTE.replace("If", "\tIf"), GO_NOTE.replace("If", "I\rf"),
        GO_NOTE.replace("If", "\ud800"),
        GO_NOTE + "a eDhnbwA=\n", GO_NOTE + "— a\n", GO_NOTE + "— a AAAAAA==\n", GO_NOTE + "— a eDhn\n",
        f"{GO_TEXT}\n— Peter+Neumann eDhnbwA=\n", f"{GO_TEXT}\n—  eDhnbwA=\n", f"{GO_TEXT}\n— a eDhn\n",
        f"{GO_TEXT}\n— a AAAA\n",
    ],
)  # fmt: skip
def test_what_is_no_signed_note_is_refused(text: str) -> None:
    """Missing parts, other dashes, control characters, bad names and bad base64."""
    with pytest.raises((Malformed, InvalidSignature)):
        note.verify(text, [NoteVerifier.parse(GO_VKEY)])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "bell\x07\n", "\ud800\n", "nul\x00\n"])
def test_what_cannot_be_a_note_is_not_signed(text: str) -> None:
    """The signer refuses what a verifier would refuse."""
    with pytest.raises(Malformed):
        SIGNER.sign(text)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\tb", "a\u2003b", "a\n", "\ud800"])
def test_a_key_name_is_one_word(name: str) -> None:
    """Empty, with white space of any kind, or with a plus sign: not a name."""
    with pytest.raises(Malformed):
        NoteSigner(name, ed25519())


def test_every_altered_character_of_a_verifier_key_is_caught() -> None:
    """The id in the middle ties name and key together, and a cut key is no key."""
    for at in range(len(GO_VKEY)):
        for changed in (GO_VKEY[:at], GO_VKEY[:at] + chr(ord(GO_VKEY[at]) + 1) + GO_VKEY[at + 1 :]):
            with pytest.raises(Malformed):
                NoteVerifier.parse(changed)


@pytest.mark.parametrize(("kind", "key"), [(2, bytes(range(32))), (1, bytes(33)), (1, bytes(31)), (1, bytes(32))])
def test_only_ed25519_verifier_keys_are_taken(kind: int, key: bytes) -> None:
    """Another signature type, length or a point of small order is refused even with the right id."""
    raw = bytes([kind]) + key
    key_id = hashlib.sha256(b"name\n" + raw).digest()[:4].hex()
    with pytest.raises(Malformed):
        NoteVerifier.parse(f"name+{key_id}+{base64.b64encode(raw).decode()}")


def test_the_text_can_be_read_before_it_is_verified() -> None:
    """`unverified_text` says so in its name, and checks the shape all the same."""
    assert note.unverified_text(GO_NOTE) == GO_TEXT
    with pytest.raises(Malformed):
        note.unverified_text(GO_TEXT)


@pytest.mark.parametrize("text", ["QQ", "QR==", "QQ==\n", "Q Q=", "QQ==QQ==", "-_8=", "é==="])
def test_base64_has_one_spelling(text: str) -> None:
    """Missing padding, trailing bits, white space and the URL alphabet are refused."""
    with pytest.raises(Malformed):
        note.decode_base64(text)
