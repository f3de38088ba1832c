"""Packages whose files are of another form than a broker writes: one line says which file and member, and exit code 1.

Whoever made them could sign them: what is not looked at could say anything.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.audit.made_packages import (
    SIGNER,
    Whole,
    alterations,
    altered_at,
    check_named,
)
from tests.audit.packages import signed_again, signed_as_it_is
from tests.cli.running import Person

_DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "name", ["manifest.json", "log-keys.json", "records.jsonl", "erasures.jsonl", "entities.jsonl"]
)
def test_every_member_of_every_file_has_one_form(whole: Whole, package: Path, name: str) -> None:
    """Another type, a number out of bounds, half a character, a member too many or few: both are named."""
    first, *others = (package / name).read_text().splitlines(keepends=name.endswith("l")) or [""]
    text = first if name.endswith("l") else (package / name).read_text()
    good = json.loads(text)
    for path, new in alterations(good):
        if name == "entities.jsonl" and path[:1] in (("entities",), ("context",)):
            continue  # whatever Cedar takes
        changed = json.dumps(altered_at(good, path, new))
        if name == "manifest.json":
            key = signed_as_it_is(package, changed.encode(), SIGNER)
        else:
            (package / name).write_text("".join([changed + "\n", *others]) if name.endswith("l") else changed)
            key = signed_again(package, SIGNER)
        check_named(package, key, f"{name}, line 1" if name.endswith("l") else name, *(p for p in path[-1:] if p != 0))


@pytest.mark.parametrize(
    "name", ["manifest.json", "log-keys.json", "records.jsonl", "erasures.jsonl", "entities.jsonl"]
)
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[NaN]",
        b'{"a":1,"a":1}',
        b'{"\xff":1}',
        b"\xef\xbb\xbf{}",
        b"9" * 5_000,
        b"{}{}",
        _DEEP.encode(),
    ],
    ids=["empty", "cut", "nan", "nan inside", "twice", "no utf-8", "bom", "long number", "two", "deep"],
)
def test_what_is_no_json_is_named(package: Path, name: str, text: bytes) -> None:
    """Whatever the parser makes of it: never a traceback."""
    if name == "manifest.json":
        key = signed_as_it_is(package, text, SIGNER)
    else:
        (package / name).write_bytes(text + b"\n")
        key = signed_again(package, SIGNER)
    check_named(package, key, name, "in UTF-8")


@pytest.mark.parametrize("name", ["checkpoint", "manifest.note", "log-keys.json", "manifest.json"])
@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"\n\n", b"a\n\nb\n", b"a\n1\n!\n\n\xe2\x80\x94 a AAAA\n", b"x\n" * 9 + b"\n\xe2\x80\x94 a b c d\n"],
)
def test_what_is_no_note_is_named(package: Path, name: str, text: bytes) -> None:
    """Nor anything that is read before a signature was verified."""
    (package / name).write_bytes(text)
    check_named(package, SIGNER.vkey, name)


def test_making_decisions_again_names_what_is_wrong_too(whole: Whole, package: Path) -> None:
    """`broker audit redecide` reads the same files: one line, exit code 1, and no traceback."""
    person = Person(whole.home)
    good = (package / "records.jsonl").read_text()
    first, *others = good.splitlines(keepends=True)
    for path, new in list(alterations(json.loads(first)))[::5]:
        (package / "records.jsonl").write_text(
            json.dumps(altered_at(json.loads(first), path, new)) + "\n" + "".join(others)
        )
        said = person.refused("audit", "redecide", str(package))
        assert "is no evidence package: records.jsonl, line 1" in said
        assert said.count("\n") == 1
    (package / "records.jsonl").unlink()
    os.mkfifo(package / "records.jsonl")
    assert "records.jsonl is neither a file" in person.refused("audit", "redecide", str(package))
    (package / "records.jsonl").unlink()
    (package / "records.jsonl").write_text(good)
    (package / "json.py").write_text("")
    assert "which no package has" in person.refused("audit", "redecide", str(package))
