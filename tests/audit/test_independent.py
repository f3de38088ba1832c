"""Somebody else's verifier (tlog-scales: C2SP tlog-tiles, RFC 9162 §2.1) agrees with this log, and with its proofs.

It reads the broker's public bytes over HTTP and shares no code with it. Its own proofs are checked by ours, and ours by
it; what was altered, both refuse.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cryptography.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales.backend import HttpBackend
from tlog_scales.reader import TilesReader
from tlog_scales.signing import Vkey
from tlog_scales.tlog import (
    Checkpoint,
    ConsistencyProof,
    ConsistencyProofInvalid,
    InclusionProof,
    InclusionProofInvalid,
)

from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.log import Step
from broker.formats import checkpoint, merkle, note, tlog_proof
from broker.formats.note import NoteVerifier
from tests.audit.logs import event
from tests.build import Running, running

_SIZE = 700
"""More than two tiles, so that there is a level above."""


@contextmanager
def _reading(run: Running) -> Iterator[TilesReader]:
    backend = HttpBackend(f"{run.url}/log")
    with backend.session:
        yield TilesReader(backend)


async def _filled(run: Running) -> None:
    while (missing := _SIZE - run.broker.audit.size) > 0:
        await run.broker.audit.record(Step(tuple(event(f"agent-{n % 7}") for n in range(min(missing, 300)))))
    await asyncio.to_thread(run.broker.tree.integrate)


async def test_it_reads_our_log_to_the_same_end(tmp_path: Path) -> None:
    """Checkpoint under the pinned key, root out of the tiles, and proofs that it builds out of them."""
    async with running(tmp_path) as run:
        run.whole_records = False
        await _filled(run)
        await asyncio.to_thread(_read, run)


def _read(run: Running) -> None:
    with _reading(run) as reader:
        theirs = reader.get_checkpoint()
        theirs.verify(Vkey.from_string(run.broker.log_key))
        ours = checkpoint.open_signed(run.broker.tree.head(), NoteVerifier.parse(run.broker.log_key))
        assert (theirs.origin, theirs.size, theirs.root_hash) == (ours.origin, ours.size, ours.root)
        assert reader.calculate_root_hash() == ours.root
        for index in (0, 255, 256, 511, 512, ours.size - 1):
            leaf = reader.mth(index, index + 1)
            proof = reader.get_inclusion_proof(index, ours.size)
            assert proof.node_hashes == run.broker.tree.inclusion(index, ours.size)
            proof.check(leaf, ours.root)
            merkle.verify_inclusion(index, ours.size, leaf, proof.node_hashes, ours.root)
        for old in (1, 200, 256, 511, 513):
            grown = reader.get_consistency_proof(old, ours.size)
            assert grown.node_hashes == run.broker.tree.consistency(old, ours.size)
            grown.check(reader.mth(0, old), ours.root)


async def test_it_accepts_a_bundles_proof(tmp_path: Path) -> None:
    """Entry, inclusion proof and checkpoint as an auditor takes them away."""
    async with running(tmp_path) as run:
        await run.check_log()
        record = await run.broker.read(lambda session: trail.read(session, 1, WHOLE))
        text = await run.broker.read(lambda _session: trail.receipt_proof(run.broker.tree, 1))
        vkey = Vkey.from_string(run.broker.log_key)
    proof = tlog_proof.parse(text)
    head = Checkpoint.from_text(proof.checkpoint)
    head.verify(vkey)
    entry = note.decode_base64(record["entry"])
    leaf = hashlib.sha256(b"\0" + entry).digest()
    InclusionProof(proof.index, head.size, list(proof.hashes)).check(leaf, head.root_hash)
    with pytest.raises(InclusionProofInvalid):
        InclusionProof(proof.index, head.size, list(proof.hashes)).check(bytes(32), head.root_hash)


async def test_it_refuses_a_checkpoint_that_was_altered(tmp_path: Path) -> None:
    """So that its agreement above says something."""
    async with running(tmp_path) as run:
        await run.check_log()
        head, vkey = Checkpoint.from_text(run.broker.tree.head()), Vkey.from_string(run.broker.log_key)
    head.verify(vkey)
    for altered in (replace(head, size=head.size + 1), replace(head, root_hash=bytes(32)), replace(head, origin="x")):
        with pytest.raises(cryptography.exceptions.InvalidSignature):
            altered.verify(vkey)


_LEAVES = [hashlib.sha256(str(n).encode()).digest() for n in range(600)]


@given(st.data())
def test_it_agrees_on_every_proof(data: st.DataObject) -> None:
    """Ours hold for it at any sizes; with any bit altered it refuses them."""
    size = data.draw(st.integers(1, 600))
    old, index = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))

    def hash_of(start: int, end: int) -> bytes:
        return merkle.root_of(_LEAVES[start:end])

    root, inclusion = hash_of(0, size), merkle.inclusion_proof(index, size, hash_of)
    consistency = merkle.consistency_proof(old, size, hash_of)
    InclusionProof(index, size, inclusion).check(_LEAVES[index], root)
    ConsistencyProof(old, size, consistency).check(hash_of(0, old), root)
    for proof in (inclusion, consistency):
        if proof:
            at = data.draw(st.integers(0, len(proof) - 1))
            proof[at] = bytes([proof[at][0] ^ 1]) + proof[at][1:]
    if inclusion:
        with pytest.raises(InclusionProofInvalid):
            InclusionProof(index, size, inclusion).check(_LEAVES[index], root)
    if consistency:
        with pytest.raises(ConsistencyProofInvalid):
            ConsistencyProof(old, size, consistency).check(hash_of(0, old), root)
