"""The ZIP file of a package: nothing is in it that another program would unpack and nobody has looked at."""

from __future__ import annotations

import asyncio
import struct
import zipfile
from contextlib import redirect_stdout
from io import BytesIO, StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit import package as packages
from broker.audit.disclosure import WHOLE
from broker.audit.log import Step
from broker.audit.package import Scope
from broker.audit.tree import AuditTree
from broker.audit.verifier import verify
from broker.db.engine import reading
from broker.formats.note import NoteSigner
from tests import databases
from tests.audit.logs import AT, SEALS, event, open_log, signed_by

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A package as it is written."""
    return _written(tmp_path_factory.mktemp("streamed"), AT)


def _written(folder: Path, at: float) -> bytes:
    """A package of one record, both made at one moment."""
    engine = databases.open_database(folder, migrated=True)
    log = open_log(engine, folder)
    asyncio.run(log.record(Step((event(at=at),))))
    log.close()
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    with reading(engine) as session:
        begun = packages.begin(session, tree, Scope(), "", WHOLE, now=at)
    data = b"".join(packages.written(begun, engine, tree, lambda _session, _hash: {}))
    engine.dispose()
    return data


def _said(data: bytes, folder: Path) -> tuple[int, str]:
    (folder / "package.zip").write_bytes(data)
    with redirect_stdout(StringIO()) as out:
        code = verify.main([str(folder / "package.zip"), "--key", SIGNER.vkey])
    return code, out.getvalue().splitlines()[-1].strip()


def _hidden(data: bytes, before: str) -> bytes:
    """With a file in front of another one that no directory lists: whoever unpacks as it comes in, takes it."""
    made = BytesIO()
    with zipfile.ZipFile(made, "w") as other:
        other.writestr("index.html", "forged")
        entry = made.getvalue()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        places = {info.filename: info.header_offset for info in archive.infolist()}
        at, directory = places.get(before, archive.start_dir), archive.start_dir
    moved = bytearray(data[directory:])
    place = 0
    while (place := moved.find(b"PK\1\2", place)) >= 0:
        (offset,) = struct.unpack_from("<L", moved, place + 42)
        struct.pack_into("<L", moved, place + 42, offset + (len(entry) if offset >= at else 0))
        place += 46
    end = moved.rfind(b"PK\5\6")
    struct.pack_into("<L", moved, end + 16, directory + len(entry))
    return data[:at] + entry + data[at:directory] + bytes(moved)


def test_a_package_is_proved_as_it_is_streamed_and_as_it_is_packed_again(streamed: bytes, tmp_path: Path) -> None:
    """With the sizes behind each file, or before it."""
    assert _said(streamed, tmp_path) == (0, "PROVED")
    again = BytesIO()
    with zipfile.ZipFile(BytesIO(streamed)) as archive, zipfile.ZipFile(again, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert _said(again.getvalue(), tmp_path) == (0, "PROVED")


@pytest.mark.parametrize(
    ("at", "year"),
    [(0.0, 1980), (315_532_799.0, 1980), (315_532_800.0, 1980), (AT, 2027), (4_354_819_199.0, 2107),
     (4_354_819_200.0, 2107), (253_402_300_799.0 + 86_400 * 400, 2107)],
)  # fmt: skip
def test_a_clock_that_is_wrong_leaves_a_package_whole(tmp_path: Path, at: float, year: int) -> None:
    """A ZIP file has the years 1980 to 2107, and calendars end with 9999: what is in it says when it was made."""
    data = _written(tmp_path, at)
    with zipfile.ZipFile(BytesIO(data)) as archive:
        assert {info.date_time[0] for info in archive.infolist()} == {year}
    assert _said(data, tmp_path) == (0, "PROVED")


def test_a_clock_before_all_time_leaves_a_package_whole(tmp_path: Path) -> None:
    """Though a record that says so is none that can be proved."""
    code, said = _said(_written(tmp_path, -5_000.0), tmp_path)
    assert (code, said) == (1, "record 0, request, at_ms: a number out of bounds: -5000000")


def test_nothing_is_hidden_in_the_container(streamed: bytes, tmp_path: Path) -> None:
    """Bytes in front, behind, a comment, and files that the directory does not list: each is told."""
    last = _hidden(streamed, "nothing")
    for data, where in (
        (b"#!/bin/sh\n" + streamed, "before checkpoint"),
        (streamed + b"more", "behind its files"),
        (streamed[:-2] + b"\x04\x00more", "behind its files"),
        (_hidden(streamed, "checkpoint"), "before checkpoint"),
        (_hidden(streamed, "index.html"), "before index.html"),
        (last, "behind its files"),
    ):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            assert archive.testzip() is None  # what lists its files finds all of them whole
        code, said = _said(data, tmp_path)
        assert (code, where in said) == (1, True), said


def test_no_list_of_keys_is_without_end(streamed: bytes, tmp_path: Path) -> None:
    """Each statement costs two signatures, before anything is known of who wrote it."""
    made = BytesIO()
    with zipfile.ZipFile(BytesIO(streamed)) as archive, zipfile.ZipFile(made, "w") as other:
        for name in archive.namelist():
            many = '{"successions": [' + ",".join(['"x"'] * (verify.MOST_KEYS + 1)) + "]}"
            other.writestr(name, many if name == "log-keys.json" else archive.read(name))
    assert _said(made.getvalue(), tmp_path) == (1, f"log-keys.json: more than {verify.MOST_KEYS} successions of keys")
