"""Packages whose files are of another form than a broker writes: one line says which file and member, and exit code 1.

Whoever made them could sign them: what is not looked at could say anything.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker.audit import package as packages
from broker.audit.disclosure import WHOLE
from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.audit.package import Scope
from broker.audit.tree import AuditTree
from broker.audit.verifier import verify
from broker.db.engine import reading, writing
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteSigner, encode_base64
from broker.policy.decided import cut
from broker.policy.request import Entity
from tests import databases
from tests.audit.logs import AT, SEALS, event, open_log, signed_by
from tests.audit.packages import signed_again, signed_as_it_is, take_away, unpacked
from tests.cli.running import Person

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
SET = {"schema.cedarschema": "entity A;\n", "a.cedar": ""}
SET_HASH = "3b" * 32
ALICE = cut(("Agent", "alice"), ("Broker", "this"), [Entity(("Agent", "alice")), Entity(("Broker", "this"))])
_JSON = ["manifest.json", "log-keys.json", "records.jsonl", "erasures.jsonl", "entities.jsonl"]
_DEEP = "[" * 100_000 + "]" * 100_000


def _of(agent: str = "alice", **groups: Any) -> Event:
    return event(agent, **{"who": {"agent": agent}, "request": {"source": "s"}, **groups})


def _erased(records: list[list[int]], *groups: str, kind: Kind = Kind.RECORDS_ERASED) -> tuple[Event, ...]:
    """The record of an erasure of `posture`, and of what follows it."""
    return (_of("operator:eve", kind=kind, remedy={"groups": ["posture", *groups], "records": records}),)


def _decided(**members: Any) -> dict[str, Any]:
    return {"outcome": "permit", "action": "call", "set": SET_HASH, "entities": ALICE.digest, **members}


def _package(
    engine: Engine, folder: Path, *events: Event, scope: Scope | None = None, kind_taken: Kind | None = None
) -> Path:
    """The package of a log of these events, of a maker who says what they like.

    Of records of the kind `kind_taken`, the group `posture` is taken away before it is written.
    """
    log = open_log(engine, folder)
    asyncio.run(_record(log, events))
    tag = log.tag(scope.agent) if scope and scope.agent else ""
    log.close()
    if kind_taken:
        with writing(engine) as connection:
            take_away(connection, "posture", kind_taken)
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    with reading(engine) as session:
        begun = packages.begin(session, tree, scope or Scope(), tag, WHOLE, now=AT)
    data = b"".join(packages.written(begun, engine, tree, lambda _session, _hash: SET))
    return unpacked(data, folder / "package")


async def _record(log: Any, events: tuple[Event, ...]) -> None:
    for each in events:
        await log.record(Step((each,)))


def _said(package: Path, key: str = SIGNER.vkey) -> tuple[int, list[str]]:
    """The exit code of the verifier, run in this process for there are many, and its lines."""
    with redirect_stdout(StringIO()) as out:
        code = verify.main([str(package), "--key", key])
    return code, out.getvalue().splitlines()


@dataclass(frozen=True)
class Whole:
    """A package with every kind of file in it."""

    folder: Path
    home: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A package that no test changes; one record names a set and entities, of one a group was erased."""
    folder = tmp_path_factory.mktemp("whole")
    engine = databases.open_database(folder, migrated=True)
    decided = _of(decision=_decided(), inputs=(ALICE,))
    bob = _of("bob", kind=Kind.CHANGE_REFUSED)
    made = _package(engine, folder, _of(), decided, bob, *_erased([[2, 2]]), kind_taken=Kind.CHANGE_REFUSED)
    engine.dispose()
    shutil.rmtree(made / "policies" / SET_HASH)  # a set of the test's has not the hash that the record names
    assert _said(made, signed_again(made, SIGNER))[0] == 0
    return Whole(made, folder / "home")


@pytest.fixture
def package(whole: Whole, tmp_path: Path) -> Path:
    """A copy to be changed."""
    return Path(shutil.copytree(whole.folder, tmp_path / "package"))


def _altered(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every place of a JSON value with what is wrong there: another type, out of bounds, a member more or less."""
    wrong: Mapping[type, list[Any]] = {
        str: [5, None, True, [], {}, "\ud800"],
        int: ["1", -1, 2**63, 10**400, 1.5, True, []],
        list: [{}, "x", 5, None],
        dict: [[], "x", 5, None],
        type(None): ["1", -1, 1.5, True, []],
    }
    for each in wrong[type(value)]:
        yield path, each
    if isinstance(value, list) and value:
        yield from _altered(value[0], (*path, 0))
    if isinstance(value, dict):
        yield (*path, "more"), 1
        for name, each in value.items():
            if path[-1:] != ("groups",):
                yield (*path, name), _GONE
            yield from _altered(each, (*path, name))


_GONE = object()


def _with(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    if not path:
        return new
    made = copy.deepcopy(value)
    place = made
    for step in path[:-1]:
        place = place[step]
    if new is _GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = new
    return made


def _check(package: Path, key: str, told: str, *members: object) -> None:
    """The verifier's one problem names the file and the member."""
    code, lines = _said(package, key)
    assert (code, lines[0]) == (1, "NOT PROVED: 1 problem(s)"), lines
    assert lines[1].strip().startswith(told), lines
    for member in members:
        assert str(member) in lines[1], lines
    assert "cannot be read" not in lines[1], lines


@pytest.mark.parametrize(
    "name", ["manifest.json", "log-keys.json", "records.jsonl", "erasures.jsonl", "entities.jsonl"]
)
def test_every_member_of_every_file_has_one_form(whole: Whole, package: Path, name: str) -> None:
    """Another type, a number out of bounds, half a character, a member too many or few: both are named."""
    first, *others = (package / name).read_text().splitlines(keepends=name.endswith("l")) or [""]
    text = first if name.endswith("l") else (package / name).read_text()
    good = json.loads(text)
    for path, new in _altered(good):
        if name == "entities.jsonl" and path[:1] in (("entities",), ("context",)):
            continue  # whatever Cedar takes
        changed = json.dumps(_with(good, path, new))
        if name == "manifest.json":
            key = signed_as_it_is(package, changed.encode(), SIGNER)
        else:
            (package / name).write_text("".join([changed + "\n", *others]) if name.endswith("l") else changed)
            key = signed_again(package, SIGNER)
        _check(package, key, f"{name}, line 1" if name.endswith("l") else name, *(p for p in path[-1:] if p != 0))


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
    _check(package, key, name, "in UTF-8")


@pytest.mark.parametrize("name", ["checkpoint", "manifest.note", "log-keys.json", "manifest.json"])
@pytest.mark.parametrize(
    "text",
    [b"", b"\xff", b"\n\n", b"a\n\nb\n", b"a\n1\n!\n\n\xe2\x80\x94 a AAAA\n", b"x\n" * 9 + b"\n\xe2\x80\x94 a b c d\n"],
)
def test_what_is_no_note_is_named(package: Path, name: str, text: bytes) -> None:
    """Nor anything that is read before a signature was verified."""
    (package / name).write_bytes(text)
    _check(package, SIGNER.vkey, name)


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"decision": _decided(entities="zz")}, "record 0, decision, entities: no SHA-256"),
        ({"decision": _decided(entities=7)}, "record 0, decision, entities: of another type"),
        ({"decision": _decided(entities="A" * 64)}, "record 0, decision, entities: no SHA-256"),
        ({"decision": _decided(set=["x"])}, "record 0, decision, set: of another type"),
        ({"decision": _decided(set="../x")}, "record 0, decision, set: no SHA-256"),
        ({"decision": {"outcome": "permit", "operator": {"entities": "zz"}}}, "record 0, decision, operator, entities"),
        ({"decision": {"outcome": "permit", "enrolment": 5}}, "record 0, decision, enrolment: of another type"),
        ({"request": {"at_ms": "now"}}, "record 0, request, at_ms: of another type"),
        ({"request": {"at_ms": -1}}, "record 0, request, at_ms: a number out of bounds"),
        ({"who": {"agent": ["alice"]}}, "record 0, who, agent: of another type"),
    ],
)
def test_what_a_record_committed_to_is_looked_at(
    engine: Engine, tmp_path: Path, groups: dict[str, Any], says: str
) -> None:
    """Its inputs are named by digests, its time is a number, its agent a name: else record and member are named."""
    made = _package(engine, tmp_path, _of(**groups))
    for each in (made / "policies").glob("*") if (made / "policies").exists() else ():
        shutil.rmtree(each)
    _check(made, signed_again(made, SIGNER), says)


@pytest.mark.parametrize(
    ("erasures", "problem"),
    [
        ((), "record 0: posture are missing, and no record of an erasure says so"),
        (_erased([[0, 0]]), ""),
        (_erased([[0, 0]], "nothing"), ""),
        (_erased([]), "record 0: posture are missing"),
        (_erased([[0, 1]]), "record 1, remedy: no range of records before it: [0, 1]"),
        (_erased([[1, 0]]), "record 1, remedy: no range of records before it: [1, 0]"),
        (_erased([[0]]), "record 1, remedy: no range of records before it: [0]"),
        (_erased([[0, 0]], kind=Kind.CHANGE_REFUSED), "record 1, remedy: the record is of no erasure"),
        ((_of("eve", kind=Kind.RECORDS_ERASED),), "record 1, remedy"),
    ],
)
def test_a_group_is_erased_if_a_record_of_an_erasure_says_so(
    engine: Engine, tmp_path: Path, erasures: tuple[Event, ...], problem: str
) -> None:
    """It covers records before it, and says so itself; the maker of a package has no other to bring."""
    made = _package(engine, tmp_path, _of(), *erasures, kind_taken=Kind.CALL_REFUSED)
    lines = (made / "records.jsonl").read_bytes().splitlines(keepends=True)
    (made / "erasures.jsonl").write_bytes(b"".join(lines[1:]))
    code, said = _said(made, signed_again(made, SIGNER))
    assert code == bool(problem), said
    assert problem in "\n".join(said)


def test_the_record_of_an_erasure_is_never_erased(engine: Engine, tmp_path: Path) -> None:
    """Another one that says so counts for nothing."""
    made = _package(engine, tmp_path, _of(), *_erased([[0, 0]]), *_erased([[0, 1]]), kind_taken=Kind.RECORDS_ERASED)
    code, said = _said(made)
    assert (code, "record 1: posture are missing" in "\n".join(said)) == (1, True)


@pytest.mark.parametrize(
    ("who", "decision", "problem"),
    [
        ("alice", _decided(), ""),
        ("alice", {"outcome": "permit", "operator": _decided()}, ""),
        ("mallory", _decided(), "record 0 is of mallory, and its decision was of another"),
        ("operator:alice", _decided(), "record 0 is of operator:alice, and"),
        ("mallory", {"outcome": "permit", "operator": _decided()}, "record 0 is of mallory, and"),
        ("", _decided(), "record 0 is of nobody, and"),
        ("alice", _decided(action="enrol"), "record 0 is of evidence:, and"),
        ("alice", {"outcome": "permit", "enrolment": _decided()}, "record 0 is of evidence:, and"),
    ],
)
def test_a_decision_was_made_for_whom_the_record_names(
    engine: Engine, tmp_path: Path, who: str, decision: dict[str, Any], problem: str
) -> None:
    """The entities that it was made from say for whom; an enrolment is of evidence, and of nobody else."""
    made = _package(engine, tmp_path, _of("alice", who={"agent": who}, decision=decision, inputs=(ALICE,)))
    shutil.rmtree(made / "policies")
    code, lines = _said(made, signed_again(made, SIGNER))
    assert code == bool(problem)
    assert problem in "\n".join(lines)
    if problem:
        assert "entities.jsonl, line 1: made for Agent alice" in lines[-1]


@pytest.mark.parametrize(("was", "now"), [('"v":1', '"v":2'), ('"v":1', '"v": 1'), ('"kind"', '"\\u006bind"')])
def test_an_entry_has_one_form(engine: Engine, tmp_path: Path, was: str, now: str) -> None:
    """Of another version, or spelled otherwise, it is none, although the log's key signed for it."""
    package = _package(engine, tmp_path, _of())
    told = json.loads((package / "records.jsonl").read_text())
    entry = base64.b64decode(told["entry"]).decode()
    assert was in entry
    found: tuple[int, list[str]] = (0, [])
    for text, code in ((entry, 0), (entry.replace(was, now), 1)):
        told["entry"] = encode_base64(text.encode())
        (package / "records.jsonl").write_text(json.dumps(told) + "\n")
        root = encode_base64(leaf_hash(text.encode()))  # of a log of one entry
        (package / "checkpoint").write_text(f"{SIGNER.vkey.partition('+')[0]}\n1\n{root}\n\nsigned below\n")
        manifest = json.loads((package / "manifest.json").read_text())
        (package / "manifest.json").write_text(json.dumps(manifest | {"root": root}))
        found = _said(package, signed_again(package, SIGNER))
        assert found[0] == code, found
    assert "  record 0: the entry is of another form than this program knows" in found[1]


def test_a_key_speaks_for_the_log_that_it_is_named_for(package: Path) -> None:
    """And for no other, whatever it signed."""
    other = (package / "checkpoint").read_text().replace("broker.example/log\n", "other.example/log\n", 1)
    (package / "checkpoint").write_text(other)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps(manifest | {"log": "other.example/log"}))
    code, lines = _said(package, signed_again(package, SIGNER))
    assert (code, lines[-1]) == (1, "  the checkpoint is of another log")


def test_the_package_of_an_agent_is_of_that_agent(engine: Engine, tmp_path: Path) -> None:
    """A record that names another is none of it; what names nobody is said not to be proved."""
    scope = Scope(agent="alice")
    events = (_of(), _of(who={"agent": "bob"}), _of(who=None), _of("unknown", who={"agent": ""}))
    made = _package(engine, tmp_path, *events, scope=scope)
    code, lines = _said(made)
    assert (code, "record 1 is of another agent than alice" in "\n".join(lines)) == (1, True)
    assert "not proved  whose 1 records are: they do not show it" in lines
    assert any(line.startswith("not proved  that alice has no") for line in lines)


def test_a_period_without_bounds_is_the_whole_log(package: Path) -> None:
    """A maker cannot cut what no bound in time cuts; of one with bounds, it is said what is not proved."""
    manifest = json.loads((package / "manifest.json").read_text())
    lines = (package / "records.jsonl").read_text().splitlines(keepends=True)
    for start, end, ms in ((1, 4, {"since_ms": 1}), (0, 3, {"until_ms": 2**42})):
        (package / "records.jsonl").write_text("".join(lines[start:end]))
        signed_again(package, SIGNER)
        told = json.loads((package / "manifest.json").read_text()) | {"range": [start, end]}
        _check(
            package,
            signed_as_it_is(package, json.dumps(told).encode(), SIGNER),
            "manifest.json, range: without a bound",
        )
        told["scope"] = manifest["scope"] | ms
        code, said = _said(package, signed_as_it_is(package, json.dumps(told).encode(), SIGNER))
        assert code == 0, said
        assert "not proved  that no entry before or after these is of that time: ask for its neighbours" in said
    for name, other in (("size", 5), ("log", "x"), ("root", "A" * 44), ("format", "x")):
        key = signed_as_it_is(package, json.dumps({**manifest, name: other}).encode(), SIGNER)
        _check(package, key, "manifest.json tells of another checkpoint")


def test_what_is_no_file_is_not_looked_through(whole: Whole, package: Path, tmp_path: Path) -> None:
    """A link to a file or a folder, of the same content or not, a pipe, a socket: named, and nothing is opened."""
    key = signed_again(package, SIGNER)
    for name in ("records.jsonl", "index.html", "verify.py"):
        (package / name).rename(tmp_path / name)
        (package / name).symlink_to(tmp_path / name)
        _check(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
        os.mkfifo(package / name)
        _check(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
        (tmp_path / name).rename(package / name)
    assert _said(package, key)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    for name in ("policies", "more"):
        shutil.rmtree(package / name, ignore_errors=True)
        (package / name).symlink_to(tmp_path / "elsewhere")
        _check(package, key, f"{name} is neither a file nor a folder")
        (package / name).unlink()
    os.mknod(package / "socket", stat.S_IFSOCK | 0o600)
    _check(package, key, "socket is neither a file nor a folder")
    os.mkfifo(tmp_path / "pipe")
    _check(tmp_path / "pipe", key, f"{tmp_path / 'pipe'} is neither a folder nor a file")


def test_files_that_no_package_has_are_named(package: Path) -> None:
    """Signed or not: Python would take a json.py for its own; one that is missing is named, too."""
    for name in ("json.py", "policies/x.cedar", "a\x1b[2J.html", "policies/" + "0" * 64 + "/a.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
        code, lines = _said(package, signed_again(package, SIGNER))
        assert code == 1
        assert verify.plain(name) + " is not a file of this package" in lines[-1]
        (package / name).unlink()
    key = signed_again(package, SIGNER)
    for name in ("checkpoint", "log-keys.json", "records.jsonl", "entities.jsonl", "manifest.json", "manifest.note"):
        good = (package / name).read_bytes()
        (package / name).unlink()
        code, lines = _said(package, key)
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
        _check(package, key, name, "5000 bytes")
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
    assert _said(file, key)[0] == 0
    for name in ("../outside", "/etc/outside", "a\\b", "policies/"):
        file.write_bytes(zipped(**{name: "x"}))
        code, lines = _said(file, key)
        assert (code, f"{verify.plain(name)} is not a file of this package" in lines[-1]) == (1, True)
    with pytest.warns(UserWarning, match="Duplicate"):
        file.write_bytes(zipped(checkpoint="x"))
    _check(file, key, "a file is in the package twice")
    data = zipped()
    for place in (0, 1, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:place])
        _check(file, key, f"{file} is no whole ZIP file")
    at = data.index((package / "records.jsonl").read_bytes()) + 50
    file.write_bytes(data[:at] + b"\0" + data[at + 1 :])
    code, lines = _said(file, key)
    assert (code, "records.jsonl" in lines[-1]) == (1, True)


def test_making_decisions_again_names_what_is_wrong_too(whole: Whole, package: Path) -> None:
    """`broker audit redecide` reads the same files: one line, exit code 1, and no traceback."""
    person = Person(whole.home)
    good = (package / "records.jsonl").read_text()
    first, *others = good.splitlines(keepends=True)
    for path, new in list(_altered(json.loads(first)))[::5]:
        (package / "records.jsonl").write_text(json.dumps(_with(json.loads(first), path, new)) + "\n" + "".join(others))
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


def test_a_terminal_that_lacks_a_character_is_no_reason_to_fail(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent's name in another script is written out on a terminal of ASCII."""
    made = _package(engine, tmp_path, _of("名前\x1b]0;x\x07"), scope=Scope(agent="名前\x1b]0;x\x07"))
    raw = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert verify.main([str(made), "--key", SIGNER.vkey]) == 0
    assert b"asked for   \\u540d\\u524d\\x1b]0;x\\x07, since" in raw.getvalue()
