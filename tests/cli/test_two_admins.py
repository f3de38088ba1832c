"""Two admins: what widens access needs both, what narrows it needs one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import Person, broker_process, signed_in

AGENT = "agents: {%s: {owner: ops, purpose: p, ceiling: [openai/%s]}}\n"


@dataclass(frozen=True)
class Two:
    """Two admins of one broker; only the first is an auditor too."""

    first: Person
    bob: Person


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    """A broker whose second admin has signed in."""
    folder = tmp_path_factory.mktemp("two")
    with broker_process(folder) as running:
        first = signed_in(folder / "first", str(running.ready["sign_in_link"]))
        (folder / "bob.yaml").write_text("operators: {bob: {roles: [admin]}}\n")
        links = first.json("apply", "-f", str(folder / "bob.yaml"))["sign_in_links"]
        yield Two(first, signed_in(folder / "bob", links["bob"]))


def propose(by: Person, folder: Path, name: str, model: str = "m-1") -> tuple[str, Path]:
    """Proposes an agent; gives the change's name and the manifest."""
    manifest = folder / f"{name}.yaml"
    manifest.write_text(AGENT % (name, model))
    outcome = by.json("apply", "-f", str(manifest))
    assert outcome["status"] == "pending"
    return str(outcome["id"]), manifest


def test_what_widens_waits_for_the_second_admin(two: Two, tmp_path: Path) -> None:
    """The proposer is told the commands of the other one; nothing is in force."""
    manifest = tmp_path / "waits.yaml"
    manifest.write_text(AGENT % ("waits", "m-1"))
    shown = two.first.ok("apply", "-f", str(manifest))
    (pending,) = [c["id"] for c in two.bob.json("apply", "list")["changes"]]
    assert "not in force" in shown
    assert f"broker apply approve {pending}" in shown
    assert f"broker apply review {pending}" in shown
    two.bob.refused("agents", "show", "waits")
    two.first.ok("apply", "withdraw", pending)


def test_nobody_approves_their_own_change(two: Two, tmp_path: Path) -> None:
    """The refusal says why, and the change goes on waiting."""
    change, _ = propose(two.first, tmp_path, "own")
    assert "you proposed it" in two.first.refused("apply", "approve", change)
    assert [c["id"] for c in two.first.json("apply", "list")["changes"]] == [change]
    two.first.ok("apply", "withdraw", change)


def test_the_second_admin_sees_the_same_change_and_approves_it(two: Two, tmp_path: Path) -> None:
    """She is shown what it changes and who proposed it; the beginning of the change's name is enough."""
    change, _ = propose(two.first, tmp_path, "approved")
    reviewed = two.bob.ok("apply", "review", change[:10])
    assert "agents/approved: new" in reviewed
    assert "Proposed by admin" in reviewed
    assert two.bob.json("apply", "review", change)["stale"] is False
    shown = two.bob.ok("apply", "approve", change[:10])
    assert "agents/approved: new" in shown
    assert "In force" in shown
    record = two.first.json("audit", "search", "--kind", "ChangeActivated", "--limit", "1")["records"][0]
    assert (record["agent"], record["groups"]["remedy"]["approved_by"]) == ("operator:admin", "bob")
    (entry,) = [c for c in two.first.json("apply", "list", "--all")["changes"] if c["id"] == change]
    assert (entry["status"], entry["decided_by"]) == ("activated", "bob")


def test_a_withdrawn_change_is_never_in_force(two: Two, tmp_path: Path) -> None:
    """The other admin can refuse it too, and it cannot be approved afterwards."""
    change, _ = propose(two.first, tmp_path, "withdrawn")
    assert two.bob.json("apply", "withdraw", change) == {"id": change, "status": "withdrawn"}
    assert "No pending changes begin with" in two.bob.refused("apply", "approve", change)
    two.bob.refused("agents", "show", "withdrawn")
    assert "No change waits" in two.first.ok("apply", "list")


def test_stopping_an_agent_needs_one_admin(two: Two, tmp_path: Path) -> None:
    """Once, with the reason in the record; giving the rights back is a change that waits."""
    change, manifest = propose(two.first, tmp_path, "stopped")
    two.bob.ok("apply", "approve", change)
    assert "stopped is suspended now" in two.first.ok("agents", "suspend", "stopped", "--why", "unusual volume")
    assert "already" in two.first.ok("agents", "suspend", "stopped", "--why", "again")
    assert two.bob.json("agents", "show", "stopped")["status"] == "suspended"
    record = two.first.json("audit", "search", "--kind", "AgentContained", "--limit", "1")["records"][0]
    assert record["groups"]["remedy"]["why"] == "unusual volume"
    manifest.write_text((AGENT % ("stopped", "m-1")).replace("purpose: p", "purpose: p, status: active"))
    outcome = two.first.json("apply", "-f", str(manifest))
    assert outcome["status"] == "pending"
    two.first.ok("apply", "withdraw", outcome["id"])


def test_roles_decide_what_a_command_may_do(two: Two) -> None:
    """Bob is no auditor: the trail is closed to him, and he is told so."""
    assert "readTrail" in two.bob.refused("audit", "search")
    assert two.bob.json("audit", "show", "0", exit_code=1)["error"] == "access_denied"


def test_a_link_signs_in_its_person_and_not_its_approver(two: Two, tmp_path: Path) -> None:
    """Whoever is handed the code cannot spend it: it is for the key that the person made before, which then works."""
    manifest, carol = tmp_path / "carol.yaml", Person(tmp_path / "carol")
    manifest.write_text("operators: {carol: {roles: [admin]}}\n")
    assert "broker login --new-key" in two.first.refused("apply", "-f", str(manifest))
    key = carol.ok("login", "--new-key").split()[0]
    assert carol.json("login", "--new-key") == {"thumbprint": key}
    manifest.write_text(f"operators: {{carol: {{roles: [admin], key: {key}}}}}\n")
    change = two.first.json("apply", "-f", str(manifest))["id"]
    assert f"+ new_link: {key}" in two.bob.ok("apply", "review", change)
    link = two.bob.json("apply", "approve", change)["sign_in_links"]["carol"]
    assert "for another key" in Person(tmp_path / "thief").refused("login", link)
    carol.ok("login", link)
    assert carol.json("agents", "list")["agents"] is not None
    assert [path.name for path in carol.home.glob("next-key*")] == []


def test_a_suspended_operator_is_signed_out(two: Two, tmp_path: Path) -> None:
    """By the name that stands in records; the next command says what to do."""
    manifest = tmp_path / "eve.yaml"
    key = Person(tmp_path / "eve").json("login", "--new-key")["thumbprint"]
    manifest.write_text(f"operators: {{eve: {{roles: [auditor], key: {key}}}}}\n")
    change = two.first.json("apply", "-f", str(manifest))["id"]
    eve = signed_in(tmp_path / "eve", two.bob.json("apply", "approve", change)["sign_in_links"]["eve"])
    assert "propose" in eve.refused("apply", "-f", str(manifest))
    eve.ok("agents", "list")
    two.first.ok("agents", "suspend", "operator:eve", "--why", "left")
    assert "ask an admin for a new link" in eve.refused("agents", "list")
