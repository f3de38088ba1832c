"""What an export is written to: lines on standard output, or a file that is whole when it has its name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import orjson

from broker.errors import ConfigurationError
from broker.files import replace_private, sync_folder

_PARTIAL = ".partial"

Line = Callable[[dict[str, Any]], bytes]


class Sink(Protocol):
    """Where records go, a page at a time."""

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Takes records in order."""

    def end(self, cursor: str) -> None:
        """Everything up to the cursor has come; what was taken is brought to its end."""

    def leave(self) -> None:
        """Lets go of a file that will not be kept."""


class Lines:
    """Records as lines of JSON.

    Args:
        file: where they go; a reader who is slow makes the export slow.
        line: how a record is written, without the line's end.
    """

    def __init__(self, file: IO[bytes], line: Line = orjson.dumps) -> None:
        self._file = file
        self._line = line

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes each record's line, or none of them if one cannot be written so."""
        self._file.write(b"".join([self._line(each) + b"\n" for each in records]))
        self._file.flush()

    def end(self, cursor: str) -> None:
        """Nothing is held back."""

    def leave(self) -> None:
        """Nothing is held."""


class PartialFile:
    """A file under the name `FILE.partial`, for its owner alone, until it is whole.

    Raises:
        ConfigurationError: there is such a file already; nothing is overwritten.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            raise ConfigurationError(f"{path} is there already, and nothing is overwritten. Choose another name.")
        self.path = path
        self.partial = partial_of(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self.file = open(os.open(self.partial, flags, 0o600), "wb")  # noqa: SIM115  it outlives this call: `store` or `drop` closes it

    def store(self) -> None:
        """Makes what was written durable, still under its partial name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def keep(self) -> None:
        """Gives the file its name."""
        self.partial.rename(self.path)
        sync_folder(self.path.parent)

    def drop(self) -> None:
        """Removes what there is of it, unless it was stored: a cursor may be waiting for it then."""
        if not self.file.closed:
            self.file.close()
            self.partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The name that a file has until it is whole."""
    return path.with_name(path.name + _PARTIAL)


class CursorState:
    """A file that keeps where the next export begins, right even when this one is killed at any point.

    Before an export's file gets its name, the cursor behind it is noted as pending; it counts once the file has its
    name. Where neither that nor the partial file is there any more, nobody here can know what became of the records.

    Raises:
        ConfigurationError: the file holds something else, or the last export may be delivered or not; the text says
            what to do.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cursor = ""
        if not path.exists():
            return
        try:
            kept = orjson.loads(path.read_bytes())
            self.cursor, pending = str(kept["cursor"]), kept.get("pending")
            if pending is not None:
                self._follow(str(pending["cursor"]), Path(pending["partial"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path} holds no cursor of an export. Name another file, or remove it."
            ) from error

    def _follow(self, cursor: str, partial: Path) -> None:
        """Takes the cursor behind the last export if that got its name before it was ended."""
        if partial.exists():
            return
        file = partial.with_name(partial.name.removesuffix(_PARTIAL))
        if not file.exists():
            behind, before = (orjson.dumps({"cursor": each}).decode() for each in (cursor, self.cursor))
            raise ConfigurationError(
                f"{self._path}: the export before this one was ended when {file} got its name, and neither that nor "
                f"{partial} is there now. If the file was taken away whole, put {behind} into {self._path}, and the "
                f"next export goes on behind it. If it was removed, put {before} there, and its records come again."
            )
        self.cursor = cursor

    def expect(self, cursor: str, partial: Path) -> None:
        """Notes the cursor that counts once the partial file has its name."""
        pending = {"cursor": cursor, "partial": str(partial.absolute())}
        replace_private(self._path, orjson.dumps({"cursor": self.cursor, "pending": pending}))

    def keep(self, cursor: str) -> None:
        """Keeps the cursor."""
        self.cursor = cursor
        replace_private(self._path, orjson.dumps({"cursor": cursor}))
