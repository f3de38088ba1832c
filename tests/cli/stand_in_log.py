"""A log behind HTTP with entries of its own, which does whatever a test wants it to: also what a broker never does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.formats import checkpoint, merkle, note, record, succession
from broker.formats.checkpoint import Checkpoint
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteSigner
from broker.formats.succession import Succession

ORIGIN = "stand-in.example/log"
_TILE = re.compile(r"/log/tile/(\d+)/((?:x\d{3}/)*\d{3})(?:\.p/(\d+))?")
_SALTS = bytes(range(record.SALTS_BYTES))


def made(agent: str, seq: int, kind: str = "CallRefused", outcome: str = "deny", **more: Any) -> dict[str, Any]:
    """A record as the API states it, without its index; `more` are groups beside `what` and `decision`."""
    groups = {"what": {"model": "m"}, "decision": {"outcome": outcome}, **more}
    committed = record.commit_groups(groups, _SALTS)
    entry = record.entry(kind, agent, seq, committed.root)
    return {
        "entry": note.encode_base64(entry),
        "commitments": note.encode_base64(committed.commitments),
        "groups": {
            name: {"salt": note.encode_base64(_SALTS[16 * at : 16 * at + 16]), "content": content.decode()}
            for at, (name, content) in enumerate(zip(record.GROUPS, committed.contents, strict=True))
        },
    }


def erasure(seq: int, groups: Sequence[str], first: int, last: int) -> dict[str, Any]:
    """The record of an erasure of groups of the records from `first` to `last`."""
    remedy = {"groups": list(groups), "records": [[first, last]], "count": 1, "inputs": 0, "why": "asked"}
    return made("operator", seq, "RecordsErased", remedy=remedy)


def leaf_of(stated: dict[str, Any]) -> bytes:
    """The leaf of a record."""
    return leaf_hash(note.decode_base64(stated["entry"]))


class StandInLog:
    """What the server behind it serves; a test changes it between two looks.

    Attributes:
        records: each as `made` gives it.
        leaves: what the tree is over.
        note: the checkpoint; `sign` makes it.
        statements: of successions.
        altered: bytes served in the place of the right ones, by path.
        silent: answers 503 to everything.
        asked: every path that was asked for.
    """

    def __init__(self) -> None:
        self.signer = NoteSigner(ORIGIN, Ed25519PrivateKey.generate())
        self.vkey = self.signer.vkey
        self.records: list[dict[str, Any]] = []
        self.leaves: list[bytes] = []
        self.note = ""
        self.statements: list[str] = []
        self.altered: dict[str, bytes] = {}
        self.silent = False
        self.asked: list[str] = []
        self.url = ""

    def grow(self, size: int) -> None:
        """Adds records of ten agents until there are `size`, and signs."""
        for index in range(len(self.records), size):
            self.add(made(f"agent-{index % 10}", index // 10 + 1))
        self.sign()

    def add(self, stated: dict[str, Any]) -> None:
        """Adds one record; `sign` covers it."""
        self.records.append({"index": len(self.records), **stated})
        self.leaves.append(leaf_of(stated))

    def sign(self, *beside: NoteSigner) -> None:
        """Signs a checkpoint over the leaves as they are now."""
        tree = Checkpoint(ORIGIN, len(self.leaves), merkle.root_of(self.leaves))
        self.note = checkpoint.sign(tree, self.signer, *beside)

    def replace_key(self) -> str:
        """Another key follows at the tree as it is; gives what verifiers pin from now on."""
        new = NoteSigner(ORIGIN, Ed25519PrivateKey.generate())
        said = Succession(ORIGIN, self.signer.vkey, new.vkey, len(self.leaves), merkle.root_of(self.leaves))
        self.statements.append(succession.sign(said, self.signer, new))
        self.signer = new
        return new.vkey

    def pages(self, start: int, end: int) -> Iterator[Sequence[object]]:
        """The records as the API gives them, seven a page."""
        there = [each for each in self.records if start <= each["index"] < end]
        for first in range(0, len(there), 7):
            yield there[first : first + 7]

    def erasures(self, start: int, end: int) -> Iterator[object]:
        """The records of erasures as the command line fetches them; of one behind `end` the index alone."""
        self.asked.append(f"erasures {start}:{end}")
        for index, stated in enumerate(self.records):
            if index >= start and b'"RecordsErased"' in note.decode_base64(stated["entry"]):
                yield stated if index < end else {"index": index}

    def answer(self, path: str) -> bytes | None:
        """What is served under a path."""
        self.asked.append(path)
        if self.silent:
            return None
        if path in self.altered:
            return self.altered[path]
        if path == "/log/checkpoint":
            return self.note.encode()
        if path == "/log/keys":
            return json.dumps({"key": self.signer.vkey, "successions": self.statements}).encode()
        found = _TILE.fullmatch(path)
        return self._tile(int(found[1]), found[2], int(found[3] or 256)) if found else None

    def _tile(self, level: int, groups: str, width: int) -> bytes | None:
        n, span = int(groups.replace("x", "").replace("/", "")), 256**level
        hashes = [
            merkle.root_of(self.leaves[at * span : (at + 1) * span])
            for at in range(n * 256, n * 256 + width)
            if (at + 1) * span <= len(self.leaves)
        ]
        return b"".join(hashes) if len(hashes) == width else None


@contextmanager
def serving() -> Iterator[StandInLog]:
    """A log that answers on loopback until the end of the block."""
    log = StandInLog()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answers."""
            data = b"ok" if self.path == "/readyz" and not log.silent else log.answer(self.path)
            self.send_response(503 if log.silent else 404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    log.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield log
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
