"""The newest checkpoint, kept as a file beside the database, so that an older database put in its place is noticed.

Outsiders keep checkpoints; a log that went on from an older copy of its records would contradict them under the same
key. The file is written, and durable, before its checkpoint is shown to anybody: whatever somebody outside holds is no
newer than what stands here. An attacker who can write the data folder can remove or replace it; those who kept a
checkpoint elsewhere still notice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from broker.errors import Unavailable
from broker.files import replace_private
from broker.formats import checkpoint

FILE = "checkpoint"
"""Its name in the data folder."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Records that were published and are not in the database any more.

    Args:
        published: how many entries the newest checkpoint that was kept covers; None if it is gone itself.
        root: the hash that it has for them, in base64.
        held: how many entries the database has.
    """

    published: int | None
    root: str
    held: int

    def __str__(self) -> str:
        if self.published is None:
            return f"which checkpoint was published last cannot be told, for the file `{FILE}` is missing"
        return f"the database holds {self.held} records, and checkpoints of {self.published} were published"

    def remedy(self) -> dict[str, object]:
        """What the record of the start says of it, for those who hold a checkpoint that the log contradicts."""
        told: dict[str, object] = {"held": self.held, "why": str(self)}
        return told if self.published is None else {**told, "published": self.published, "published_root": self.root}


class PublishedCheckpoint:
    """The file. One process writes it.

    Args:
        folder: the data folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._size = 0
        self._turn = threading.Lock()

    def read(self) -> str | None:
        """The signed checkpoint that was kept last; None if there is none.

        Raises:
            Unavailable: it cannot be read.
        """
        try:
            return self._path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(f"{self._path}: cannot be read: {error}") from error

    def keep(self, note: str) -> None:
        """Writes a checkpoint that is about to be published, unless this process kept a newer one; then it is durable.

        Raises:
            Unavailable: it could not be written; the checkpoint must not be published.
        """
        size = checkpoint.parse_unverified(note).size
        with self._turn:
            if size <= self._size:
                return
            try:
                replace_private(self._path, note.encode())
            except OSError as error:
                raise Unavailable(f"{self._path}: cannot be written: {error.strerror}. Make room there.") from error
            self._size = size
