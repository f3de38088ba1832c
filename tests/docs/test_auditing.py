"""auditing.md, followed as it is written, by an auditor who has a key, an address and a sign-in, and no machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.docs.document import Document
from tests.docs.machine import Machine

OPERATING = Document.read("docs/operating.md")
AUDITING = Document.read("docs/auditing.md")


def test_an_auditor_verifies_by_the_document(tmp_path: Path) -> None:
    """With the broker's commands and with the program of the document's own: what holds is proved, what not is not."""
    with Machine(tmp_path, OPERATING) as machine:
        machine.follow(OPERATING.section("Start"))
        key = (machine.home / "log.vkey").read_text()
        machine.person("rita")
        (machine.home / "log.vkey").write_text(key)
        new_key, login, text = AUDITING.section("Sign in").blocks("sh", "text")
        thumbprint = machine.run(new_key.text).split()[0]
        (manifest,) = AUDITING.section("Sign in").blocks("yaml")
        machine.person("at-work")
        world = yaml.safe_load(manifest.text.replace("the thumbprint", thumbprint))
        (machine.home / "world.yaml").write_text(yaml.safe_dump(world))
        machine.link = json.loads(machine.run("broker apply -f world.yaml --json"))["sign_in_links"]["rita"]
        machine.person("rita")
        assert machine.here(text.text) in machine.run(login.text)
        machine.follow(AUDITING.section("Keep a checkpoint"))
        machine.follow(AUDITING.section("Verify the whole log"))
        machine.follow(AUDITING.section("Watch it"))
        machine.follow(AUDITING.section("Take a record away, and prove it"))
        assert "changes" in machine.follow(AUDITING.section("Search"))
        (program,) = AUDITING.section("Verify it with a program of your own").blocks("python")
        (machine.home / "check.py").write_text(program.text)
        machine.follow(AUDITING.section("Verify it with a program of your own"))
        machine.follow(AUDITING.section("An evidence package"))
        _check_package(machine)
        assert '"BrokerStarted"' in machine.follow(AUDITING.section("A log that was restored"))
        _check_alterations(machine)
        machine.person("at-work")
        new = json.loads(machine.run("broker keys rotate --log --compromised current --json"))["log"]
        machine.person("rita")
        assert new in machine.run("broker audit checkpoint --key log.vkey --checkpoint-state log.checkpoint")
        assert "proved." in machine.run("broker audit verify record.json --key log.vkey")
        (machine.home / "log.vkey").write_text(new)
        assert "proved." in machine.follow(AUDITING.section("When the key is replaced"))


def _check_package(machine: Machine) -> None:
    """The package that the document made is not proved once a record in it is another."""
    records = machine.home / "evidence" / "records.jsonl"
    good = records.read_text()
    records.write_text(good.replace("the shipped policies", "the shipped politics"))
    assert records.read_text() != good
    said = machine.run("! python -I evidence/verify.py evidence --key log.vkey")
    assert "NOT PROVED" in said
    records.write_text(good)


def _check_alterations(machine: Machine) -> None:
    """Every part of a bundle, altered by one character, is found by both programs."""
    bundle = json.loads((machine.home / "record.json").read_text())
    index, _, checkpoint = bundle["proof"].partition("\n\n")
    remedy = bundle["groups"]["remedy"]
    alterations: list[dict[str, object]] = [
        {"entry": _other(bundle["entry"])},
        {"commitments": _other(bundle["commitments"])},
        {"proof": f"{_other(index)}\n\n{checkpoint}"},
        {"proof": f"{index}\n\n{_other(checkpoint)}"},
        {"proof": bundle["proof"].replace("index 0", "index 1")},
        {"groups": {"remedy": {**remedy, "content": "{}"}}},
        {"groups": {"who": remedy}},
    ]
    for number, altered in enumerate(alterations):
        (machine.home / f"altered-{number}.json").write_text(json.dumps(bundle | altered))
        with pytest.raises(AssertionError, match="Traceback"):
            machine.run(f"python check.py altered-{number}.json log.vkey")
    said = machine.run("! broker audit verify altered-*.json --key log.vkey")
    assert said.count("NOT PROVED") == len(alterations)


def _other(text: str) -> str:
    """The text with a character in the middle of its last word exchanged."""
    place = len(text) - 20
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
