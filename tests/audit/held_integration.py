"""An integration in a process of its own that waits between signing and swapping until it is told to go on.

`python -m tests.audit.held_integration FOLDER KEY [URL]` says "signed" each time that it has signed, reads a line, goes
on, and says at last which checkpoint it came to. FOLDER holds what it publishes, and without a URL the database, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker import database_url
from broker.audit.published import PublishedCheckpoint
from broker.audit.tree import AuditTree
from broker.db.engine import begin_to_write, open_engine, open_server
from broker.db.sqlite import sqlite_url
from broker.entropy import new_id, system_entropy
from broker.formats.note import NoteSigner
from tests.audit.logs import SEALS, signed_by

ORIGIN = "two.example/log"


class _Held(PublishedCheckpoint):
    """Waits before a checkpoint is kept, which is after it is signed and before the head is swapped."""

    def keep(self, note: str) -> None:
        sys.stdout.write("signed\n")
        sys.stdout.flush()
        sys.stdin.readline()
        super().keep(note)


def main(folder: str, key: str, url: str | None = None) -> None:
    """Integrates once."""
    place = Path(folder)
    name = new_id(system_entropy)
    engine = open_engine(sqlite_url(place)) if url is None else open_server(database_url.keywords(url), None, name)
    begin_to_write(engine, name)
    signer = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)))
    note = AuditTree(engine, signed_by(signer), SEALS, _Held(place)).integrate()
    sys.stdout.write(f"{note!r}\n")
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
