"""Notes, checkpoints, proofs and bundles: what verifies is what was signed, to the last character."""

from __future__ import annotations

import base64
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.audit.trail import VerifiedRecord, verify_bundle
from broker.formats import checkpoint, merkle, note, record, tlog_proof
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests.formats.forge import ed25519
from tests.fuzz.mutations import altered, damaged_text, spelled
from tests.fuzz.outcome import effort, taken

NAME = "broker.example/log"
SIGNER, FORGER, OTHER = (
    NoteSigner(name, ed25519(key)) for name, key in ((NAME, "log"), (NAME, "forger"), ("o.example", "log"))
)
KEY = NoteVerifier.parse(SIGNER.vkey)

CONTENTS = {"who": {"agent": "nightly"}, "what": {"model": "e/largë"}, "decision": {"outcome": "deny"}}
COMMITTED = record.commit_groups(CONTENTS, bytes(range(record.SALTS_BYTES)))
ENTRY = record.entry("CallRefused", "00ff", 2, COMMITTED.root)
LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(3)]
LEAVES = [*LEAVES, merkle.leaf_hash(ENTRY), *LEAVES]
HEAD = Checkpoint(NAME, len(LEAVES), merkle.root_of(LEAVES))
SIGNED = checkpoint.sign(HEAD, SIGNER)
PATH = merkle.inclusion_proof(3, len(LEAVES), lambda start, end: merkle.root_of(LEAVES[start:end]))
PROOF = tlog_proof.write(3, PATH, SIGNED)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


BUNDLE: dict[str, Any] = {
    "entry": _base64(ENTRY),
    "commitments": _base64(COMMITTED.commitments),
    "groups": {
        name: {"salt": _base64(bytes(range(at * 16, at * 16 + 16))), "content": COMMITTED.contents[at].decode()}
        for at, name in enumerate(record.GROUPS)
    },
    "proof": PROOF,
}
PROVED = verify_bundle(json.dumps(BUNDLE).encode(), KEY)

LINES = st.text(st.characters(exclude_categories=["C"]), max_size=12)
NOTES = st.lists(LINES, min_size=1, max_size=5).map(lambda lines: "".join(f"{line}\n" for line in lines))


@effort(150)
@given(NOTES, st.data())
def test_a_note_is_what_was_signed(text: str, data: st.DataObject) -> None:
    """Whatever happens to a signed note, its text comes back unchanged or not at all."""
    signed = SIGNER.sign(text)
    assert note.verify(signed, [KEY]) == note.unverified_text(signed) == text
    found = taken(lambda: note.verify(data.draw(damaged_text(signed)), [KEY]))
    assert found is None or found == text


@effort(100)
@given(NOTES, st.lists(st.sampled_from([SIGNER, FORGER, OTHER]), max_size=4), st.data())
def test_only_the_known_key_counts(text: str, signers: list[NoteSigner], data: st.DataObject) -> None:
    """Lines of unknown keys change nothing, wherever they stand; without the known one there is no note."""
    lines = [signer.sign(text)[len(text) + 1 :] for signer in signers]
    body = text if data.draw(st.booleans()) else text + "more\n"
    found = taken(lambda: note.verify(f"{body}\n{''.join(lines)}", [KEY]))
    assert (found == text) is (SIGNER in signers and body == text)


@effort(100)
@given(damaged_text(SIGNER.vkey) | st.text(max_size=80))
def test_a_verifier_key_is_read_or_refused(vkey: str) -> None:
    """A key that was altered is never another key of the same name."""
    found = taken(lambda: NoteVerifier.parse(vkey))
    if found is not None:
        raw = found.key.public_bytes_raw()
        assert vkey == "+".join([found.name, found.key_id.hex(), _base64(bytes([1]) + raw)])


@effort(150)
@given(
    st.builds(
        Checkpoint,
        LINES,
        st.integers(-1, 2**64),
        st.binary(min_size=30, max_size=34) | st.binary(min_size=32, max_size=32),
    )
)
def test_a_checkpoint_comes_back_as_written(head: Checkpoint) -> None:
    """What can be written is read back as the same; what could not be read back is not written."""
    text = taken(head.to_text)
    if text is not None:
        assert checkpoint.parse(text) == head
        assert checkpoint.parse(text).to_text() == text


@effort(200)
@given(damaged_text(HEAD.to_text()))
def test_a_checkpoint_has_one_spelling(text: str) -> None:
    """What reads as a checkpoint begins with exactly its own text; after it come lines of others alone."""
    head = taken(lambda: checkpoint.parse(text))
    assert head is None or text.startswith(head.to_text())


@effort(200)
@given(damaged_text(SIGNED))
def test_a_damaged_checkpoint_does_not_open(signed: str) -> None:
    """Under the pinned key it is the head that was signed, or nothing."""
    assert taken(lambda: checkpoint.open_signed(signed, KEY)) in (None, HEAD)
    taken(lambda: checkpoint.parse_unverified(signed))


@effort(150)
@given(st.integers(-1, 2**63), st.lists(st.binary(min_size=32, max_size=32), max_size=5), st.binary(max_size=8))
def test_a_proof_comes_back_as_written(index: int, hashes: list[bytes], extra: bytes) -> None:
    """Index, hashes, checkpoint and what was added are read back as they were."""
    text = taken(lambda: tlog_proof.write(index, hashes, SIGNED, extra=extra))
    if text is not None:
        assert tlog_proof.parse(text) == tlog_proof.TlogProof(index, tuple(hashes), SIGNED, extra)


@effort(200)
@given(damaged_text(PROOF))
def test_a_damaged_proof_proves_nothing_else(text: str) -> None:
    """It proves the entry at its place under the signed head, or nothing."""
    proved = taken(lambda: tlog_proof.verify(text, LEAVES[3], KEY))
    assert proved in (None, tlog_proof.Proved(3, HEAD.size, NAME, HEAD.root))
    parsed = taken(lambda: tlog_proof.parse(text))
    assert parsed is None or text == tlog_proof.write(
        parsed.index, parsed.hashes, parsed.checkpoint, extra=parsed.extra
    )


@effort(200)
@given(altered(BUNDLE, odd=st.sampled_from([PROOF, SIGNED, _base64(ENTRY), _base64(bytes(16)), "{}"])).flatmap(spelled))
def test_a_bundle_proves_what_happened_or_nothing(data: bytes) -> None:
    """However a bundle was altered: the same record at the same place, its groups as they were or left out."""
    found = taken(lambda: verify_bundle(data, KEY))
    if found is None:
        return
    assert isinstance(found, VerifiedRecord)
    assert found.groups.items() <= PROVED.groups.items()
    assert (found.index, found.size, found.origin, found.kind, found.seq) == (3, 7, NAME, "CallRefused", 2)


@effort(150)
@given(damaged_text(json.dumps(BUNDLE)).map(str.encode) | st.binary(max_size=60))
def test_a_damaged_file_proves_what_happened_or_nothing(data: bytes) -> None:
    """Bytes that are no bundle, or one with a flaw, are refused in words of ours."""
    found = taken(lambda: verify_bundle(data, KEY))
    assert found is None or (found.groups.items() <= PROVED.groups.items() and found.index == 3)


@effort(100)
@given(st.text(max_size=24) | st.integers(0, 2**65).map(str) | st.from_regex(r"\A[0-9 +_-]{0,22}\Z"))
def test_a_number_has_one_spelling(text: str) -> None:
    """A decimal that is read is written the same, and lies below 2**63."""
    found = taken(lambda: checkpoint.parse_decimal(text))
    assert found is None or (str(found) == text and 0 <= found < 2**63)


@effort(100)
@given(st.binary(max_size=40), st.data())
def test_plain_base64_has_one_spelling(raw: bytes, data: st.DataObject) -> None:
    """What is written is read back, and nothing else is read as the same."""
    assert note.decode_base64(note.encode_base64(raw)) == raw
    text = data.draw(damaged_text(note.encode_base64(raw)))
    found = taken(lambda: note.decode_base64(text))
    assert found is None or note.encode_base64(found) == text
