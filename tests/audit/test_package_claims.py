"""Packages whose records say what does not fit: one line says which record and what, and exit code 1."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from broker.audit.events import Event, Kind
from broker.audit.package import Scope
from broker.formats.merkle import leaf_hash
from broker.formats.note import encode_base64
from tests.audit.made_packages import (
    ALICE,
    SIGNER,
    check_named,
    decision_with,
    erasure_of,
    of,
    package_of,
    verifier_says,
)
from tests.audit.packages import signed_again, signed_as_it_is


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        ({"decision": decision_with(entities="zz")}, "record 0, decision, entities: no SHA-256"),
        ({"decision": decision_with(entities=7)}, "record 0, decision, entities: of another type"),
        ({"decision": decision_with(entities="A" * 64)}, "record 0, decision, entities: no SHA-256"),
        ({"decision": decision_with(set=["x"])}, "record 0, decision, set: of another type"),
        ({"decision": decision_with(set="../x")}, "record 0, decision, set: no SHA-256"),
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
    made = package_of(engine, tmp_path, of(**groups))
    for each in (made / "policies").glob("*") if (made / "policies").exists() else ():
        shutil.rmtree(each)
    check_named(made, signed_again(made, SIGNER), says)


@pytest.mark.parametrize(
    ("erasures", "problem"),
    [
        ((), "record 0: posture are missing, and no record of an erasure says so"),
        (erasure_of([[0, 0]]), ""),
        (erasure_of([[0, 0]], "nothing"), ""),
        (erasure_of([]), "record 0: posture are missing"),
        (erasure_of([[0, 1]]), "record 1, remedy: no range of records before it: [0, 1]"),
        (erasure_of([[1, 0]]), "record 1, remedy: no range of records before it: [1, 0]"),
        (erasure_of([[0]]), "record 1, remedy: no range of records before it: [0]"),
        (erasure_of([[0, 0]], kind=Kind.CHANGE_REFUSED), "record 1, remedy: the record is of no erasure"),
        ((of("eve", kind=Kind.RECORDS_ERASED),), "record 1, remedy"),
    ],
)
def test_a_group_is_erased_if_a_record_of_an_erasure_says_so(
    engine: Engine, tmp_path: Path, erasures: tuple[Event, ...], problem: str
) -> None:
    """It covers records before it, and says so itself; the maker of a package has no other to bring."""
    made = package_of(engine, tmp_path, of(), *erasures, kind_taken=Kind.CALL_REFUSED)
    lines = (made / "records.jsonl").read_bytes().splitlines(keepends=True)
    (made / "erasures.jsonl").write_bytes(b"".join(lines[1:]))
    code, said = verifier_says(made, signed_again(made, SIGNER))
    assert code == bool(problem), said
    assert problem in "\n".join(said)


def test_the_record_of_an_erasure_is_never_erased(engine: Engine, tmp_path: Path) -> None:
    """Another one that says so counts for nothing."""
    made = package_of(
        engine, tmp_path, of(), *erasure_of([[0, 0]]), *erasure_of([[0, 1]]), kind_taken=Kind.RECORDS_ERASED
    )
    code, said = verifier_says(made)
    assert (code, "record 1: posture are missing" in "\n".join(said)) == (1, True)


@pytest.mark.parametrize(
    ("who", "decision", "problem"),
    [
        ("alice", decision_with(), ""),
        ("alice", {"outcome": "permit", "operator": decision_with()}, ""),
        ("mallory", decision_with(), "record 0 is of mallory, and its decision was of another"),
        ("operator:alice", decision_with(), "record 0 is of operator:alice, and"),
        ("mallory", {"outcome": "permit", "operator": decision_with()}, "record 0 is of mallory, and"),
        ("", decision_with(), "record 0 is of nobody, and"),
        ("alice", decision_with(action="enrol"), "record 0 is of evidence:, and"),
        ("alice", {"outcome": "permit", "enrolment": decision_with()}, "record 0 is of evidence:, and"),
    ],
)
def test_a_decision_was_made_for_whom_the_record_names(
    engine: Engine, tmp_path: Path, who: str, decision: dict[str, Any], problem: str
) -> None:
    """The entities that it was made from say for whom; an enrolment is of evidence, and of nobody else."""
    made = package_of(engine, tmp_path, of("alice", who={"agent": who}, decision=decision, inputs=(ALICE,)))
    shutil.rmtree(made / "policies")
    code, lines = verifier_says(made, signed_again(made, SIGNER))
    assert code == bool(problem)
    assert problem in "\n".join(lines)
    if problem:
        assert "entities.jsonl, line 1: made for Agent alice" in lines[-1]


@pytest.mark.parametrize(("was", "now"), [('"v":1', '"v":2'), ('"v":1', '"v": 1'), ('"kind"', '"\\u006bind"')])
def test_an_entry_has_one_form(engine: Engine, tmp_path: Path, was: str, now: str) -> None:
    """Of another version, or spelled otherwise, it is none, although the log's key signed for it."""
    package = package_of(engine, tmp_path, of())
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
        found = verifier_says(package, signed_again(package, SIGNER))
        assert found[0] == code, found
    assert "  record 0: the entry is of another form than this program knows" in found[1]


def test_a_key_speaks_for_the_log_that_it_is_named_for(package: Path) -> None:
    """And for no other, whatever it signed."""
    other = (package / "checkpoint").read_text().replace("broker.example/log\n", "other.example/log\n", 1)
    (package / "checkpoint").write_text(other)
    manifest = json.loads((package / "manifest.json").read_text())
    (package / "manifest.json").write_text(json.dumps(manifest | {"log": "other.example/log"}))
    code, lines = verifier_says(package, signed_again(package, SIGNER))
    assert (code, lines[-1]) == (1, "  the checkpoint is of another log")


def test_the_package_of_an_agent_is_of_that_agent(engine: Engine, tmp_path: Path) -> None:
    """A record that names another is none of it; what names nobody is said not to be proved."""
    scope = Scope(agent="alice")
    events = (of(), of(who={"agent": "bob"}), of(who=None), of("unknown", who={"agent": ""}))
    made = package_of(engine, tmp_path, *events, scope=scope)
    code, lines = verifier_says(made)
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
        check_named(
            package,
            signed_as_it_is(package, json.dumps(told).encode(), SIGNER),
            "manifest.json, range: without a bound",
        )
        told["scope"] = manifest["scope"] | ms
        code, said = verifier_says(package, signed_as_it_is(package, json.dumps(told).encode(), SIGNER))
        assert code == 0, said
        assert "not proved  that no entry before or after these is of that time: ask for its neighbours" in said
    for name, other in (("size", 5), ("log", "x"), ("root", "A" * 44), ("format", "x")):
        key = signed_as_it_is(package, json.dumps({**manifest, name: other}).encode(), SIGNER)
        check_named(package, key, "manifest.json tells of another checkpoint")
