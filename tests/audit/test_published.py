"""The newest checkpoint beside the database: what this process wrote last is never replaced by an older one."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.published import PublishedCheckpoint
from broker.formats import checkpoint
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner


def test_an_older_checkpoint_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    """Two integrations at once may come here in either order; another process begins anew."""
    signer = NoteSigner("b.example/log", Ed25519PrivateKey.generate())
    old, new = (checkpoint.sign(Checkpoint("b.example/log", size, b"r" * 32), signer) for size in (3, 5))
    published = PublishedCheckpoint(tmp_path)
    for note in (new, old):
        published.keep(note)
        assert published.read() == new
    PublishedCheckpoint(tmp_path).keep(old)
    assert published.read() == old
