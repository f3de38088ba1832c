"""Bundles: made by a broker, verified without one. Whatever is altered is found, and named."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.cli.bundles import Auditor
from broker.errors import BrokerError
from broker.formats import checkpoint, merkle, record, tlog_proof
from broker.formats.checkpoint import Checkpoint
from broker.formats.note import NoteSigner, NoteVerifier
from tests.cli.running import BrokerProcess, Person, run

GROUPS = {"who": {"agent": "triage"}, "decision": {"outcome": "deny"}}


@pytest.fixture(scope="session")
def bundle(admin: Person, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a change that was refused."""
    file = tmp_path_factory.mktemp("bundle") / "record.json"
    admin.refused("apply", "-f", "-", input="agents: {proved: {owner: 1}}\n")
    index = admin.json("audit", "search", "--kind", "ChangeRefused", "--limit", "1")["records"][0]["index"]
    told = admin.json("audit", "prove", str(index), "-o", str(file))
    assert told == {"index": index, "file": str(file), "bytes": file.stat().st_size}
    return file


def made(signer: NoteSigner, kind: str, *, others: int = 2) -> bytes:
    """A bundle of a log of our own, with one record of `kind` first in it."""
    salts = bytes(record.SALTS_BYTES)
    committed = record.commit_groups(GROUPS, salts)
    entry = record.entry(kind, "tag", 1, committed.root)
    leaves = [merkle.leaf_hash(entry), *(bytes([n]) * 32 for n in range(others))]
    note = checkpoint.sign(Checkpoint(signer.name, len(leaves), merkle.root_of(leaves)), signer)
    proof = merkle.inclusion_proof(0, len(leaves), lambda start, end: merkle.root_of(leaves[start:end]))
    salt = base64.b64encode(bytes(record.SALT_BYTES)).decode()
    contents = dict(zip(record.GROUPS, committed.contents, strict=True))
    return json.dumps(
        {
            "entry": base64.b64encode(entry).decode(),
            "commitments": base64.b64encode(committed.commitments).decode(),
            "groups": {name: {"salt": salt, "content": contents[name].decode()} for name in GROUPS},
            "proof": tlog_proof.write(0, proof, note),
        }
    ).encode()


def a_log() -> tuple[NoteSigner, NoteVerifier]:
    """A log's key, and what an auditor pins of it."""
    signer = NoteSigner("log.example", Ed25519PrivateKey.generate())
    return signer, NoteVerifier.parse(signer.vkey)


def test_a_bundle_is_verified_without_broker_sign_in_or_network(
    bundle: Path, broker: BrokerProcess, stranger: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the file and the pinned key alone, and shown as a person reads it."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("verify went to the network"))
    shown = stranger.ok("audit", "verify", str(bundle), "--key", broker.log_key)
    assert f"{bundle}: proved." in shown
    assert "ChangeRefused, at index" in shown
    assert "operator:admin" in shown
    assert "manifest_invalid" in shown
    assert not stranger.home.exists()


def test_the_key_may_stand_in_a_file(bundle: Path, admin: Person, tmp_path: Path) -> None:
    """As `broker keys show --log > log.vkey` makes it; in a process of its own."""
    (tmp_path / "log.vkey").write_text(admin.ok("keys", "show", "--log"))
    done = run("audit", "verify", str(bundle), "--key", "log.vkey", "--json", home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["verified"] is True
    assert told["files"][0]["kind"] == "ChangeRefused"
    assert told["files"][0]["withheld"] == []


def _text(members: Any, name: str, where: int) -> None:
    text = members[name]
    other = "B" if text[where] == "A" else "A" if text[where].isalnum() or text[where] in "+/" else "x"
    members[name] = text[:where] + other + text[where + 1 :]


def _bytes(members: Any, name: str, where: int = 0) -> None:
    data = bytearray(base64.b64decode(members[name]))
    data[where] ^= 1
    members[name] = base64.b64encode(data).decode()


def _previous_index(members: Any) -> None:
    index = tlog_proof.parse(members["proof"]).index
    members["proof"] = members["proof"].replace(f"index {index}", f"index {index - 1}")


def _in_proof(words: str) -> Callable[[Any], None]:
    """Alters the character after the last of these words in the proof."""
    return lambda members: _text(members, "proof", members["proof"].rindex(words) + len(words))


ALTERED: dict[str, tuple[Callable[[Any], None], str]] = {
    "entry": (lambda m: _bytes(m, "entry", 40), "proof"),
    "commitments": (lambda m: _bytes(m, "commitments", 100), "commitments"),
    "proof header": (lambda m: _text(m, "proof", 0), "proof begins"),
    "proof index": (_previous_index, "proof"),
    "proof hash": (lambda m: _text(m, "proof", m["proof"].index("\n\n") - 5), "proof"),
    "checkpoint origin": (_in_proof("\n\n127.0.0."), "altered"),
    "checkpoint size": (_in_proof("/log\n"), "altered"),
    "checkpoint root": (lambda m: _text(m, "proof", m["proof"].rindex("\n\n") - 5), "altered"),
    "signature": (lambda m: _text(m, "proof", len(m["proof"]) - 20), "altered"),
    **{
        f"{name} salt": (lambda m, name=name: _bytes(m["groups"][name], "salt"), f'"{name}"')  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for name in record.GROUPS
    },
    **{
        f"{name} content": (lambda m, name=name: _text(m["groups"][name], "content", 3), f'"{name}"')  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        for name in ("who", "what", "decision", "request", "remedy")
    },
}


@pytest.mark.parametrize("what", ALTERED)
def test_one_altered_byte_in_any_member_is_found(
    what: str, bundle: Path, broker: BrokerProcess, stranger: Person, tmp_path: Path
) -> None:
    """Exit code 1; the text says which part does not fit, and nothing of the content is shown as if it held."""
    members = json.loads(bundle.read_bytes())
    alter, said = ALTERED[what]
    alter(members)
    altered = tmp_path / "altered.json"
    altered.write_text(json.dumps(members))
    result = stranger("audit", "verify", str(altered), "--key", broker.log_key)
    assert result.exit_code == 1
    assert f"{altered}: NOT PROVED. " in result.stdout
    assert said in result.stdout
    assert "operator:admin" not in result.stdout


def test_no_altered_byte_of_the_file_makes_it_prove_something_else(bundle: Path, broker: BrokerProcess) -> None:
    """Every byte, one bit: the file is refused or, where the byte means nothing (white space), proves the same."""
    key = NoteVerifier.parse(broker.log_key)
    data = bundle.read_bytes()
    proved = Auditor(key).verify(data, "original").record
    survived = 0
    for place in range(len(data)):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            assert Auditor(key).verify(altered, "altered").record == proved
            survived += 1
        except BrokerError:
            continue
    assert survived < len(data) // 20


def test_another_key_proves_nothing(bundle: Path, stranger: Person, broker: BrokerProcess) -> None:
    """Not even one of the same name: the pinned key decides, not what the bundle says of itself."""
    name = broker.log_key.partition("+")[0]
    for other in (name, "other.example/log"):
        vkey = NoteSigner(other, Ed25519PrivateKey.generate()).vkey
        told = stranger.json("audit", "verify", str(bundle), "--key", vkey, exit_code=1)
        assert told["verified"] is False
        assert "check the verifier key you pinned" in told["files"][0]["detail"]


def test_what_is_no_key_is_refused(bundle: Path, stranger: Person) -> None:
    """With the command that prints one."""
    assert "broker keys show --log" in stranger.refused("audit", "verify", str(bundle), "--key", "abc")


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"entry": 1}', b"\xff", b'{"a": 1, "a": 2}'])
def test_what_is_no_bundle_is_refused(data: bytes, stranger: Person, tmp_path: Path) -> None:
    """In a sentence, without a traceback."""
    (tmp_path / "f").write_bytes(data)
    told = stranger.json("audit", "verify", str(tmp_path / "f"), "--key", a_log()[0].vkey, exit_code=1)
    assert told["files"][0]["error"] == "malformed"


def test_one_bad_bundle_among_good_ones_fails_the_command(
    bundle: Path, broker: BrokerProcess, stranger: Person, tmp_path: Path
) -> None:
    """Every file gets its verdict."""
    (tmp_path / "bad").write_bytes(made(a_log()[0], "TokenIssued"))
    told = stranger.json("audit", "verify", str(bundle), str(tmp_path / "bad"), "--key", broker.log_key, exit_code=1)
    assert [each["verified"] for each in told["files"]] == [True, False]


def test_a_group_that_is_withheld_is_said_to_be(stranger: Person, tmp_path: Path) -> None:
    """An auditor who was not shown everything knows it."""
    signer, _ = a_log()
    members = json.loads(made(signer, "TokenIssued"))
    del members["groups"]["who"]
    (tmp_path / "f").write_text(json.dumps(members))
    told = stranger.json("audit", "verify", str(tmp_path / "f"), "--key", signer.vkey)
    assert "who" in told["files"][0]["withheld"]
    assert "decision" not in told["files"][0]["withheld"]
    shown = stranger.ok("audit", "verify", str(tmp_path / "f"), "--key", signer.vkey)
    assert "not shown" in shown


def test_two_trees_of_one_size_under_one_key_are_found(stranger: Person, tmp_path: Path) -> None:
    """A log that tells two people different things is caught when they lay their bundles side by side."""
    signer, _ = a_log()
    for name in ("TokenIssued", "TokenRefused"):
        (tmp_path / name).write_bytes(made(signer, name))
    files = [str(tmp_path / name) for name in ("TokenIssued", "TokenRefused")]
    told = stranger.json("audit", "verify", *files, "--key", signer.vkey, exit_code=1)
    assert [each["verified"] for each in told["files"]] == [True, False]
    assert files[0] in told["files"][1]["detail"]
    assert "two different trees of 3 entries" in told["files"][1]["detail"]


def test_a_bundle_is_held_against_the_checkpoint_that_was_kept(stranger: Person, tmp_path: Path) -> None:
    """The same tree, another tree of its size, or one that a bundle alone cannot compare: three different answers."""
    signer, _ = a_log()
    bundle, kept = tmp_path / "f", tmp_path / "kept"
    bundle.write_bytes(made(signer, "TokenIssued"))
    arguments = ["audit", "verify", str(bundle), "--key", signer.vkey, "--checkpoint-state", str(kept)]
    kept.write_text(tlog_proof.parse(json.loads(bundle.read_bytes())["proof"]).checkpoint)
    assert stranger.json(*arguments)["files"][0]["kept"] == "same"
    kept.write_text(checkpoint.sign(Checkpoint(signer.name, 3, b"\x07" * 32), signer))
    assert "two different trees" in stranger.json(*arguments, exit_code=1)["files"][0]["detail"]
    kept.write_text(checkpoint.sign(Checkpoint(signer.name, 2, b"\x07" * 32), signer))
    assert stranger.json(*arguments)["files"][0]["kept"] == "not compared"
    assert "cannot prove that one continues the other" in stranger.ok(*arguments)
    kept.write_text(checkpoint.sign(Checkpoint("log.example", 3, b"\x07" * 32), a_log()[0]))
    assert "check the verifier key you pinned" in stranger.refused(*arguments)
