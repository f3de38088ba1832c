"""Packages of files that are none, are too many, too large, or in a ZIP file that does not hold them: each is named."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker.audit.package import Scope
from broker.audit.verifier import verify
from tests.audit.made_packages import (
    SIGNER,
    Whole,
    check_named,
    of,
    package_of,
    verifier_says,
)
from tests.audit.packages import signed_again


def test_what_is_no_file_is_not_looked_through(whole: Whole, package: Path, tmp_path: Path) -> None:
    """A link to a file or a folder, of the same content or not, a pipe, a socket: named, and nothing is opened."""
    key = signed_again(package, SIGNER)
    for name in ("records.jsonl", "index.html", "verify.py"):
        (package / name).rename(tmp_path / name)
        (package / name).symlink_to(tmp_path / name)
        check_named(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
        os.mkfifo(package / name)
        check_named(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
        (tmp_path / name).rename(package / name)
    assert verifier_says(package, key)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    for name in ("policies", "more"):
        shutil.rmtree(package / name, ignore_errors=True)
        (package / name).symlink_to(tmp_path / "elsewhere")
        check_named(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
    os.mknod(package / "socket", stat.S_IFSOCK | 0o600)
    check_named(package, key, "socket is neither a file nor a folder")
    os.mkfifo(tmp_path / "pipe")
    check_named(tmp_path / "pipe", key, f"{tmp_path / 'pipe'} is neither a folder nor a file")


def test_files_that_no_package_has_are_named(package: Path) -> None:
    """Signed or not: Python would take a json.py for its own; one that is missing is named, too."""
    for name in ("json.py", "policies/x.cedar", "a\x1b[2J.html", "policies/" + "0" * 64 + "/a.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
        code, lines = verifier_says(package, signed_again(package, SIGNER))
        assert code == 1
        assert verify.plain(name) + " is not a file of this package" in lines[-1]
        (package / name).unlink()
    key = signed_again(package, SIGNER)
    for name in ("checkpoint", "log-keys.json", "records.jsonl", "entities.jsonl", "manifest.json", "manifest.note"):
        good = (package / name).read_bytes()
        (package / name).unlink()
        code, lines = verifier_says(package, key)
        assert (code, f"{name} is missing" in lines[-1]) == (1, True)
        (package / name).write_bytes(good)


def test_a_file_larger_than_any_is_not_read_whole(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that has no lines nor a line without an end."""
    monkeypatch.setattr(verify, "LONGEST", 5_000)
    for name in ("records.jsonl", "entities.jsonl", "log-keys.json", "checkpoint"):
        good = (package / name).read_bytes()
        key = signed_again(package, SIGNER)
        with (package / name).open("r+b") as file:
            file.truncate(1_000_000)
        if name.endswith("jsonl"):
            key = signed_again(package, SIGNER)
        check_named(package, key, name, "5000 bytes")
        (package / name).write_bytes(good)


def test_a_zip_file_is_looked_at_as_a_folder_is(package: Path, tmp_path: Path) -> None:
    """Cut, damaged, twice the same name, a name that leads elsewhere: named, and nothing is written."""
    key = signed_again(package, SIGNER)

    def zipped(**more: str) -> bytes:
        with zipfile.ZipFile(sink := BytesIO(), "w") as archive:
            for file in sorted(path for path in package.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(package))
            for name, text in more.items():
                archive.writestr(name, text)
        return sink.getvalue()

    file = tmp_path / "package.zip"
    file.write_bytes(zipped())
    assert verifier_says(file, key)[0] == 0
    for name in ("../outside", "/etc/outside", "a\\b", "policies/"):
        file.write_bytes(zipped(**{name: "x"}))
        code, lines = verifier_says(file, key)
        assert (code, f"{verify.plain(name)} is not a file of this package" in lines[-1]) == (1, True)
    with pytest.warns(UserWarning, match="Duplicate"):
        file.write_bytes(zipped(checkpoint="x"))
    check_named(file, key, "a file is in the package twice")
    data = zipped()
    for place in (0, 1, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:place])
        check_named(file, key, f"{file} is no whole ZIP file")
    at = data.index((package / "records.jsonl").read_bytes()) + 50
    file.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    code, lines = verifier_says(file, key)
    assert (code, "records.jsonl" in lines[-1]) == (1, True)


def test_a_terminal_that_lacks_a_character_is_no_reason_to_fail(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent's name in another script is written out on a terminal of ASCII."""
    made = package_of(engine, tmp_path, of("名前\x1b]0;x\x07"), scope=Scope(agent="名前\x1b]0;x\x07"))
    raw = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert verify.main([str(made), "--key", SIGNER.vkey]) == 0
    assert b"asked for   \\u540d\\u524d\\x1b]0;x\\x07, since" in raw.getvalue()
