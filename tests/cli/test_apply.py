"""Manifests: shown before, applied once, refused with the place of the mistake."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import Person

AGENT = "agents: {%s: {owner: ops, purpose: sorts tickets, ceiling: [openai/gpt-4o-mini]}}\n"


def test_a_dry_run_shows_the_difference_and_changes_nothing(admin: Person, tmp_path: Path) -> None:
    """Not even a record is left."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(AGENT % "dry")
    before = admin.json("audit", "search", "--kind", "ChangeActivated")["records"]
    shown = admin.ok("apply", "-f", str(manifest), "--dry-run")
    assert "agents/dry: new" in shown
    assert "+ owner: ops" in shown
    assert '+ ceiling: ["openai/gpt-4o-mini"]' in shown
    assert "nothing was changed" in shown
    assert "There is no agent dry" in admin.refused("agents", "show", "dry")
    assert admin.json("audit", "search", "--kind", "ChangeActivated")["records"] == before


def test_a_manifest_is_in_force_at_once_for_the_only_admin(admin: Person, tmp_path: Path) -> None:
    """The answer names the record, which names what was changed."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(AGENT % "applied")
    outcome = admin.json("apply", "-f", str(manifest))
    assert outcome["status"] == "activated"
    record = admin.json("audit", "show", str(outcome["record"]))
    assert record["kind"] == "ChangeActivated"
    (told,) = record["groups"]["remedy"]["differences"]
    assert (told["section"], told["name"], told["before"]) == ("agents", "applied", None)
    assert told["after"]["owner"] == "ops"
    assert admin.json("agents", "show", "applied")["ceiling"] == ["openai/gpt-4o-mini"]


def test_applying_twice_changes_nothing_the_second_time(admin: Person, tmp_path: Path) -> None:
    """A manifest describes a state, not a step."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(AGENT % "twice")
    admin.ok("apply", "-f", str(manifest))
    assert admin.json("apply", "-f", str(manifest))["status"] == "unchanged"
    assert "Nothing to change" in admin.ok("apply", "-f", str(manifest))


def test_only_what_changes_is_shown(admin: Person, tmp_path: Path) -> None:
    """Entry by entry for a list, and nothing about what stays."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(AGENT % "changing")
    admin.ok("apply", "-f", str(manifest))
    manifest.write_text((AGENT % "changing").replace("openai/gpt-4o-mini", "openai/gpt-4o-mini, openai/o3"))
    shown = admin.ok("apply", "-f", str(manifest), "--dry-run").splitlines()
    assert shown[:2] == ["agents/changing: changed", "  + ceiling: openai/o3"]
    assert not shown[2].startswith("  ")


def test_several_files_and_standard_input_make_one_change(admin: Person, tmp_path: Path) -> None:
    """YAML and JSON, merged; one record for all of it."""
    first, second = tmp_path / "first.yaml", tmp_path / "second.json"
    first.write_text(AGENT % "merged-a")
    second.write_text('{"agents":\t{"merged-b": {"owner": "ops", "purpose": "p"}}}')
    shown = admin.ok("apply", "-f", str(first), "-f", str(second), "-f", "-", input=AGENT % "merged-c")
    assert [f"agents/merged-{letter}: new" in shown for letter in "abc"] == [True] * 3
    assert shown.count("In force, as record") == 1


def test_a_bad_manifest_names_the_key(admin: Person, tmp_path: Path) -> None:
    """The broker's own words reach the terminal, and the record says that it was refused."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text("agents: {bad: {owner: ops, purpose: p, celing: []}}\n")
    assert admin.refused("apply", "-f", str(manifest)) == "broker: agent bad: unknown member `celing`.\n"
    assert admin.json("apply", "-f", str(manifest), exit_code=1) == {
        "error": "manifest_invalid",
        "detail": "agent bad: unknown member `celing`.",
    }
    newest = admin.json("audit", "search", "--kind", "ChangeRefused", "--limit", "1")["records"][0]
    assert newest["groups"]["remedy"]["reason"] == "manifest_invalid"


def test_a_manifest_that_is_not_there_is_named(admin: Person, tmp_path: Path) -> None:
    """One line with the file's name."""
    missing = str(tmp_path / "none.yaml")
    assert admin.refused("apply", "-f", missing) == f"broker: {missing}: No such file or directory\n"


def test_a_new_operators_link_is_shown_once(admin: Person, tmp_path: Path) -> None:
    """It signs the operator in on another machine; applied again, no link is shown."""
    manifest = "operators: {carol: {roles: [auditor]}}\n"
    outcome = admin.ok("apply", "-f", "-", input=manifest)
    link = next(word for word in outcome.split() if word.startswith("'http")).strip("'")
    carol = Person(tmp_path / "carol")
    assert "operator:carol (auditor)" in carol.ok("login", link)
    assert carol.json("audit", "search", "--limit", "1")["records"]
    assert "broker login" not in admin.ok("apply", "-f", "-", input=manifest)


def test_what_is_known_is_shown_as_a_manifest(admin: Person) -> None:
    """Endpoints and operators too, which have no command of their own."""
    admin.ok("apply", "-f", "-", input="endpoints: {shown: {base_url: 'https://models.example/v1', models: [m-1]}}\n")
    known = admin.json("apply", "show")
    assert set(known) == {"attesters", "endpoints", "agents", "operators"}
    assert known["endpoints"]["shown"]["models"] == ["m-1"]
    assert "base_url: https://models.example/v1" in admin.ok("apply", "show", "endpoints")
