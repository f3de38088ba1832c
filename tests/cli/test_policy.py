"""Policies: tried on this machine, activated whole, explained, rolled back."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.policy.engine import compile
from broker.policy.shipped import PolicyFiles, shipped
from tests.cli.running import Person

NEW = """
@id("nobody-calls-m-9")
@advice("Use another one.")
forbid (principal is Agent, action == Action::"call", resource == Model::"openai/m-9");
"""
WRONG_STATUS = ('principal.status == "active"', 'principal.status == "aktive"')


def write(folder: Path, source: PolicyFiles, *, schema: bool = True) -> Path:
    """A policy set as a folder."""
    (folder / "cases").mkdir(parents=True)
    if schema:
        (folder / "schema.cedarschema").write_text(source.schema)
    for name, text in source.files.items():
        (folder / name).write_text(text)
    for name, text in source.cases.items():
        (folder / "cases" / name).write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped policies, to be changed."""
    return write(tmp_path / "policies", shipped())


def replaced(file: Path, change: tuple[str, str]) -> None:
    """Changes every occurrence of a text in a file that has it."""
    text = file.read_text()
    assert change[0] in text
    file.write_text(text.replace(*change))


@pytest.mark.parametrize("schema", [True, False])
def test_the_shipped_policies_pass_without_a_broker(stranger: Person, tmp_path: Path, schema: bool) -> None:
    """With the vocabulary beside them or the package's; nobody is signed in."""
    folder = str(write(tmp_path / "p", shipped(), schema=schema))
    assert stranger.ok("policy", "validate", folder).startswith("Valid")
    told = stranger.json("policy", "test", folder)
    assert all(result["passed"] for result in told["results"])
    assert told["unexercised"] == []
    assert f"{len(told['results'])} of {len(told['results'])} cases pass" in stranger.ok("policy", "test", folder)
    assert stranger.json("policy", "validate", folder)["hash"] == told["hash"]


def test_a_policy_that_does_not_fit_the_vocabulary_is_named(stranger: Person, folder: Path) -> None:
    """With its file, line and id."""
    replaced(folder / "models.cedar", ("principal.status", "principal.state"))
    complaint = stranger.refused("policy", "validate", str(folder))
    assert "models.cedar, line 30" in complaint
    assert "inactive-agents-call" in complaint
    assert stranger.json("policy", "test", str(folder), exit_code=1)["error"] == "policy_invalid"


def test_a_failing_case_says_what_was_expected_and_what_came(stranger: Person, folder: Path) -> None:
    """Exit code 1; the others are shown as passed."""
    replaced(folder / "models.cedar", WRONG_STATUS)
    result = stranger("policy", "test", str(folder))
    assert result.exit_code == 1
    said = "expected permit by [inside-ceiling]; got deny (policy) by [inactive-agents-call]"
    assert f"models.yaml: an agent calls a model that its ceiling names: {said}" in result.stdout
    told = stranger.json("policy", "test", str(folder), exit_code=1)
    assert 0 < len([each for each in told["results"] if not each["passed"]]) < len(told["results"])


def test_a_policy_without_cases_is_pointed_out(stranger: Person, folder: Path) -> None:
    """The set passes, and the author learns what was never tried."""
    (folder / "more.cedar").write_text(NEW)
    told = stranger.json("policy", "test", str(folder))
    assert any("nobody-calls-m-9" in gap for gap in told["unexercised"])
    assert "Not tried: more.cedar" in stranger.ok("policy", "test", str(folder))


@pytest.mark.parametrize("name", ["cases/extra.yml", "extra.yaml"])
def test_a_case_file_that_would_not_be_run_is_refused(stranger: Person, folder: Path, name: str) -> None:
    """A case nobody runs is worse than none."""
    (folder / name).write_text("[]")
    assert f"{name} would not be run" in stranger.refused("policy", "test", str(folder))


def test_a_folder_without_policies_is_refused(stranger: Person, tmp_path: Path) -> None:
    """In one line that says how a folder is laid out."""
    assert "has no .cedar file" in stranger.refused("policy", "validate", str(tmp_path))


def test_a_set_that_fails_a_case_is_not_activated(admin: Person, folder: Path) -> None:
    """Exit code 1 with the failing cases; the set in force stays."""
    before = admin.json("policy", "show")["hash"]
    replaced(folder / "models.cedar", WRONG_STATUS)
    complaint = admin.refused("policy", "activate", str(folder))
    assert "cases fail" in complaint
    assert "models.yaml: an agent calls a model that its ceiling names: expected permit" in complaint
    assert admin.json("policy", "activate", str(folder), exit_code=1)["error"] == "cases_failed"
    assert admin.json("policy", "show")["hash"] == before


def test_a_set_is_taken_away_changed_activated_and_rolled_back(admin: Person, tmp_path: Path) -> None:
    """The whole way of an edit; rolling back names the older set by the beginning of its hash."""
    folder = tmp_path / "taken"
    assert "Wrote" in admin.ok("policy", "show", "--out", str(folder))
    first = admin.json("policy", "validate", str(folder))["hash"]
    assert first == admin.json("policy", "show")["hash"]
    (folder / "more.cedar").write_text(NEW)
    shown = admin.ok("policy", "activate", str(folder), "--dry-run")
    assert "policies/more.cedar: new" in shown
    assert '  +@id("nobody-calls-m-9")' in shown
    assert admin.json("policy", "show")["hash"] == first
    assert admin.json("policy", "activate", str(folder))["status"] == "activated"
    assert "nobody-calls-m-9" in admin.ok("policy", "show")
    assert "policies/more.cedar: removed" in admin.ok("policy", "rollback", first[:12])
    versions = admin.json("policy", "versions")
    assert versions["hash"] == first
    numbers = [each["revision"] for each in versions["versions"]]
    assert numbers == sorted(numbers, reverse=True)
    assert (numbers[0], versions["versions"][0]["hash"]) == (versions["revision"], first)
    (folder / "cases" / "more.yaml").write_text("[]")
    (folder / "more.cedar").unlink()
    assert admin.json("policy", "activate", str(folder))["status"] == "activated"
    assert "more.yaml" in admin.json("policy", "show", first)["cases"]
    assert "cases/more.yaml: removed" in admin.ok("policy", "rollback", str(numbers[0]))
    assert "in force" in admin.ok("policy", "versions")


@pytest.mark.parametrize("own", [True, False])
def test_a_vocabulary_changes_only_with_a_folder_that_has_one(admin: Person, folder: Path, own: bool) -> None:
    """Without the file, the one in force stays."""
    schema = folder / "schema.cedarschema"
    schema.write_text(schema.read_text() + "// more\n")
    if not own:
        schema.unlink()
    changes = admin.json("policy", "activate", str(folder), "--dry-run")["differences"]
    assert ("schema.cedarschema" in [each["name"] for each in changes]) is own


def test_texts_of_an_older_set_can_be_read(admin: Person) -> None:
    """By its hash, on the terminal or as JSON."""
    first = compile(shipped().schema, shipped().files).hash
    assert admin.json("policy", "show", first)["files"] == dict(shipped().files)
    assert '@id("inside-ceiling")' in admin.ok("policy", "show", first[:16])
    assert "No policy sets begin with" in admin.refused("policy", "show", "ffffffff00")


def test_a_folder_with_something_in_it_is_not_written_to(admin: Person, folder: Path) -> None:
    """Nobody loses an edit to `--out`."""
    (folder / "models.cedar").write_text("// mine")
    assert "not empty" in admin.refused("policy", "show", "--out", str(folder))
    assert (folder / "models.cedar").read_text() == "// mine"


def test_a_decision_is_explained(admin: Person, tmp_path: Path) -> None:
    """Which policies decide, and what stands in the way; explaining a refusal is no failure."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "endpoints: {explained: {base_url: 'https://models.example/v1', models: [small, large]}}\n"
        "agents: {explained: {owner: o, purpose: p, ceiling: [explained/small]}}\n"
    )
    admin.ok("apply", "-f", str(manifest))
    assert admin.ok("policy", "explain", "explained", "explained/small").startswith("Permitted")
    refusal = admin.json("policy", "explain", "explained", "explained/large")
    assert (refusal["permitted"], refusal["limited_by"]) == (False, "ceiling")
    assert "Refused by outside-ceiling" in admin.ok("policy", "explain", "explained", "explained/large")
    assert "There is no agent" in admin.refused("policy", "explain", "nobody", "explained/small")
