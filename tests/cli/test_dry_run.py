"""`broker apply --dry-run`: what a change comes to, readable before anything happens, and complete as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.cli import differences
from broker.policy.shipped import shipped
from tests.cli.running import Person, broker_process, signed_in

ENDPOINT = "endpoints: {dry-run: {base_url: 'https://dry.example/v1', models: [%s]}}\n"
AGENT = "agents: {%s: {owner: ops, purpose: p, ceiling: [%s]%s}}\n"
POLICY = """
policies:
  night.cedar: |
    @id("nobody-calls-dry")
    @advice("Use another one.")
    forbid (principal is Agent, action == Action::"call", resource == Model::"dry-run/dry-9");
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Person, Person]]:
    """Two admins of one broker, for whom an endpoint and an agent are known."""
    folder = tmp_path_factory.mktemp("two")
    with broker_process(folder) as running:
        ada = signed_in(folder / "ada", str(running.ready["sign_in_link"]))
        ada.ok("apply", "-f", "-", input=ENDPOINT % "dry-1" + AGENT % ("known", "dry-run/dry-1", ""))
        link = _link(ada.ok("apply", "-f", "-", input="operators: {bob: {roles: [admin]}}\n"))
        yield ada, signed_in(folder / "bob", link)


def _link(shown: str) -> str:
    return next(word for word in shown.split() if word.startswith("'http")).strip("'")


def _document(person: Person, text: str, folder: Path) -> Any:
    (folder / "m.yaml").write_text(text)
    return person.json("apply", "-f", str(folder / "m.yaml"), "--dry-run")


def test_the_sum_says_what_widens_and_who_must_approve(two: tuple[Person, Person], tmp_path: Path) -> None:
    """New, changed and removed are counted; each widening has its how; the second person is named with the reason."""
    ada, _ = two
    text = ENDPOINT % "dry-1, dry-2, dry-3" + AGENT % ("known", "dry-run/dry-2, dry-run/dry-3", "")
    shown = ada.ok(
        "apply", "-f", "-", "--dry-run", input=text + "operators: {carol: {roles: [auditor], key: %s}}" % ("A" * 43)
    )
    lines = shown.splitlines()
    assert lines[:3] == ["endpoints/dry-run: changed", "  + models: dry-2", "  + models: dry-3"]
    assert (
        "1 new, 2 changed, 0 removed; widens access: yes (endpoint dry-run: models +2; agent known: ceiling +2 -1; "
        "operator carol: new)"
    ) in lines
    assert "It would wait for a second person (bob), because it widens access." in lines
    assert ada.json("apply", "list")["changes"] == []


def test_what_narrows_only_would_be_in_force_at_once(two: tuple[Person, Person]) -> None:
    """One person is enough for it, and the text says why."""
    ada, _ = two
    shown = ada.ok("apply", "-f", "-", "--dry-run", input=AGENT % ("known", "dry-run/dry-1", ", status: suspended"))
    assert "0 new, 1 changed, 0 removed; narrows only" in shown
    assert "It would be in force at once: it narrows only." in shown
    assert "second person" not in shown


def test_who_is_alone_is_told_so(admin: Person) -> None:
    """While nobody else may approve, nothing waits."""
    shown = admin.ok("apply", "-f", "-", "--dry-run", input=AGENT % ("alone", "dry-run/dry-1", ""))
    assert "It would be in force at once: nobody else who has signed in may approve." in shown


def test_cases_that_ran_are_told(two: tuple[Person, Person], tmp_path: Path) -> None:
    """How many and of which files; where no policy changes, none ran."""
    ada, _ = two
    told = _document(ada, POLICY, tmp_path)["reach"]
    assert told["cases"] > 10
    assert told["case_files"] == sorted(shipped().cases)
    shown = ada.ok("apply", "-f", "-", "--dry-run", input=POLICY)
    assert f"{told['cases']} cases ran on the policies to come, and passed: {', '.join(told['case_files'])}" in shown
    assert '  +@id("nobody-calls-dry")' in shown
    assert _document(ada, ENDPOINT % "dry-2", tmp_path)["reach"]["cases"] == 0


def test_json_is_complete(two: tuple[Person, Person], tmp_path: Path) -> None:
    """What the terminal shortens is whole there."""
    ada, _ = two
    entries = [f"dry-run/m-{n}" for n in range(40)]
    told = _document(ada, AGENT % ("many", ", ".join(entries), ""), tmp_path)
    assert told["status"] == "checked"
    assert sorted(told["differences"][0]["after"]["ceiling"]) == sorted(entries)
    assert told["reach"] == {
        "new": 1,
        "changed": 0,
        "removed": 0,
        "widens": ["agent many: new"],
        "cases": 0,
        "case_files": [],
        "waits_for": ["bob"],
    }


def test_long_lists_are_counted_for_people_and_whole_for_who_approves(two: tuple[Person, Person]) -> None:
    """A dry run ends a long list with a count; whoever approves sees every entry."""
    ada, bob = two
    entries = sorted(f"dry-run/m-{n:02}" for n in range(40))
    text = AGENT % ("known", ", ".join(entries), "")
    shown = ada.ok("apply", "-f", "-", "--dry-run", input=text)
    assert shown.count("+ ceiling: dry-run/m-") == 10
    assert "  + ceiling: … and 30 more" in shown
    assert "agent known: ceiling +40 -1" in shown
    new = ada.ok("apply", "-f", "-", "--dry-run", input=AGENT % ("long", ", ".join(entries), ""))
    assert "… and 30 more]" in new
    ada.ok("apply", "-f", "-", input=text)
    (change,) = bob.json("apply", "list")["changes"]
    reviewed = bob.ok("apply", "review", change["id"])
    assert reviewed.count("+ ceiling: dry-run/m-") == 40
    assert "ceiling +40 -1" in reviewed
    ada.ok("apply", "withdraw", change["id"])


def test_drift_is_an_exit_code_when_it_is_asked_for(admin: Person, tmp_path: Path) -> None:
    """0 for checked, as for unchanged; 1 for a difference only with the option; nothing is changed either way."""
    manifest = tmp_path / "m.yaml"
    manifest.write_text(AGENT % ("drift", "dry-run/dry-1", ""))
    dry = ("apply", "-f", str(manifest), "--dry-run")
    assert admin(*dry).exit_code == 0
    assert admin(*dry, "--fail-on-difference").exit_code == 1
    assert admin.json(*dry, "--fail-on-difference", exit_code=1)["status"] == "checked"
    admin.ok("apply", "-f", str(manifest))
    assert "Nothing to change" in admin.ok(*dry, "--fail-on-difference")


def test_a_pipe_gets_no_colours(admin: Person) -> None:
    """Only a terminal does."""
    assert "\x1b" not in admin.ok("apply", "-f", "-", "--dry-run", input=AGENT % ("plain", "dry-run/dry-1", ""))


def test_texts_are_shown_with_what_stands_around_and_never_cut() -> None:
    """Three lines on either side of a change in a long file; a new file line by line."""
    before = "".join(f"line {n}\n" for n in range(100))
    shown = list(differences.lines(before, before.replace("line 50\n", "line fifty\n"), most=10))
    around = [[f" line {n}" for n in range(first, first + 3)] for first in (47, 51)]
    assert shown == ["@@ -48,7 +48,7 @@", *around[0], "-line 50", "+line fifty", *around[1]]
    assert len(list(differences.lines(None, before, most=10))) == 101


def test_many_things_end_with_a_count(capsys: pytest.CaptureFixture[str]) -> None:
    """Fifty are shown; whoever approves sees all."""
    many = [{"section": "agents", "name": f"a-{n}", "before": None, "after": {"owner": "o"}} for n in range(60)]
    reach = {"new": 60, "changed": 0, "removed": 0, "widens": [f"agent a-{n}: new" for n in range(60)], "cases": 0}
    differences.show(many, reach)
    cut = capsys.readouterr().out
    assert (cut.count(": new\n"), "… and 10 more; --json shows all of them" in cut) == (50, True)
    assert "agent a-9: new; … and 50 more)" in cut
    differences.show(many, reach, whole=True)
    assert capsys.readouterr().out.count(": new\n") == 60
