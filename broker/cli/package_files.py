"""Evidence packages as files: unpacked safely, and read as `verify.py` reads them, with what is wrong named."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from broker.audit.verifier.log_proofs import NotProved, read_json, unbase64
from broker.audit.verifier.records import ENTRY, RECORD
from broker.audit.verifier.verify import MANIFEST, NAME, Package
from broker.errors import Malformed

_MAX_SLICES_BYTES = 32 * 1024 * 1024
"""Of slices in memory, as they stand in the package; read, they are several times as large."""
_MAX_SETS = 16
_UNREADABLE = (
    NotProved, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError,
    RuntimeError, NotImplementedError, ValueError,
)  # fmt: skip
"""What reading a ZIP file raises that was damaged, encrypted, or made by something else than a broker."""
_LAST = "manifest.note"
"""The file that is written last: without it, the package was cut."""


@contextmanager
def opened(path: Path) -> Iterator[Package]:
    """A package; a ZIP file is unpacked for as long as it is looked at.

    Raises:
        Malformed: it is none; the text names file and member.
    """
    try:
        if path.is_dir():
            yield _named(Package(path))
            return
        with tempfile.TemporaryDirectory() as beside:
            unpack(path, Path(beside) / "package")
            yield Package(Path(beside) / "package")
    except NotProved as error:
        raise Malformed(f"{path} is no evidence package: {error}.") from error


def check_whole(file: Path) -> None:
    """Makes sure that a ZIP file is a package, whole, with the files of a package and no others.

    Raises:
        Malformed: it is not.
    """
    try:
        package = _named(Package(file))
        assert package.zip is not None
        if (damaged := package.zip.testzip()) is not None:
            raise NotProved(f"{damaged} is damaged")
    except _UNREADABLE as error:
        raise Malformed(f"{file} is no evidence package: {error}.") from error


def unpack(file: Path, folder: Path) -> None:
    """Writes the files of a package; a name that no package has could be a place outside it.

    Raises:
        Malformed: it is no package, or there is no room for it.
    """
    check_whole(file)
    with zipfile.ZipFile(file) as archive:
        size = sum(info.file_size for info in archive.infolist())
        if size > shutil.disk_usage(folder.parent).free:
            raise Malformed(f"{file} unpacks to {size} bytes: there is no room for it in {folder.parent}.")
        archive.extractall(folder)


def _named(package: Package) -> Package:
    for name in package.names:
        if not NAME.fullmatch(name):
            raise NotProved(f"it holds a file {name!r}, which no package has")
    if _LAST not in package.names:
        raise NotProved(f"{_LAST} is missing: it was cut before its end")
    return package


def scope_agent(package: Package) -> str:
    """The agent whose records were asked for, "" for all."""
    return str(read_json(package.text("manifest.json").encode(), "manifest.json", MANIFEST)["scope"]["agent"])


def records(package: Package) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each record's index, its kind, and the groups that it shows: {} for one that it never had."""
    for where, line in package.lines("records.jsonl"):
        record = read_json(line, where, RECORD)
        entry = read_json(unbase64(record["entry"], where), f"{where}, entry", ENTRY)
        contents = {name: shown["content"].encode() for name, shown in record["groups"].items()}
        yield (
            record["index"],
            entry["kind"],
            {
                name: read_json(content, f"{where}, {name}", {"": Any}) if content else {}
                for name, content in contents.items()
            },
        )


class Sets:
    """The policy sets of a package, compiled when they are asked for; each must have the hash that names it."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self.compiled = lru_cache(_MAX_SETS)(self._compiled)

    def _compiled(self, hash: str) -> Any:
        from broker.policy.engine import compile
        from broker.policy.source import SCHEMA_NAME

        folder = f"policies/{hash}/"
        names = [name for name in self._package.names if name.startswith(folder)]
        if not names:
            return None
        files = {name.removeprefix(folder): self._package.text(name) for name in names}
        found = compile(files.pop(SCHEMA_NAME, ""), files)
        if found.hash != hash:
            raise Malformed("its policy set is not the one that the hash names")
        return found


class Slices:
    """The entity slices of a package, found by the digests of their lines; the last ones asked for stay in memory."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._places: dict[bytes, int] = {}
        place = 0
        for _, line in package.lines("entities.jsonl"):
            self._places[hashlib.sha256(line.rstrip(b"\n")).digest()] = place
            place += len(line)
        self._held: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self.held_bytes = 0
        """Of those in memory."""

    def read(self, digest: str) -> Any:
        """A slice; None for one that is not here.

        Raises:
            Malformed: it is here, and is none.
        """
        from broker.policy.decided import read_slice

        if digest in self._held:
            self._held.move_to_end(digest)
            return self._held[digest][0]
        place = self._places.get(bytes.fromhex(digest))
        if place is None:
            return None
        with self._package.open("entities.jsonl") as file:
            file.seek(place)
            line = file.readline().rstrip(b"\n")
        found = read_slice(line)
        self._held[digest] = found, len(line)
        self.held_bytes += len(line)
        while self.held_bytes > _MAX_SLICES_BYTES:
            self.held_bytes -= self._held.popitem(last=False)[1][1]
        return found
