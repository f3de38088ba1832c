"""Agents, attesters and keys: looked at, and stopped."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import pytest

from broker.client import BrokerAuth, TokenRefused
from broker.formats import jwk
from tests.build import es256, thumbprint
from tests.cli.running import BrokerProcess, Person


def register(admin: Person, folder: Path, id: str, **more: object) -> None:
    """Makes an agent known."""
    manifest = folder / "agent.json"
    manifest.write_text(json.dumps({"agents": {id: {"owner": "team-list", "purpose": "p", "ceiling": [], **more}}}))
    admin.ok("apply", "-f", str(manifest))


def test_agents_are_listed_by_owner(admin: Person, tmp_path: Path) -> None:
    """The table holds one line for each; --limit bounds them all together."""
    for letter in "abc":
        register(admin, tmp_path, f"listed-{letter}")
    register(admin, tmp_path, "listed-elsewhere", owner="team-elsewhere")
    lines = admin.ok("agents", "list", "--owner", "team-list").splitlines()
    assert [line.split()[0] for line in lines] == ["agent", "listed-a", "listed-b", "listed-c"]
    found = admin.json("agents", "list", "--owner", "team-list", "--limit", "2")["agents"]
    assert [agent["id"] for agent in found] == ["listed-a", "listed-b"]


@pytest.mark.parametrize("id", ["ci/acme~1web/main", "a%2Fb", "x/../y", "mail@host:1"])
def test_any_name_that_an_agent_may_have_can_be_shown(admin: Person, tmp_path: Path, id: str) -> None:
    """Slashes, dots and percent signs in a name mean nothing in the URL."""
    register(admin, tmp_path, id, owner="team-names")
    assert admin.json("agents", "show", id)["id"] == id


def test_running_copies_are_shown_and_a_suspended_agent_gets_nothing(
    admin: Person, broker: BrokerProcess, tmp_path: Path
) -> None:
    """The copy appears by its key's thumbprint; after `suspend` there is no new token."""
    key = es256()
    register(admin, tmp_path, "copied", owner="team-copies", keys=[dict(jwk.to_members(key.public_key()))])
    auth = BrokerAuth(broker.issuer, client_id="copied", key=key, proof_key=key)
    with httpx2.Client(base_url=broker.issuer, auth=auth) as client:
        assert client.get("/openai/v1/models").status_code == 200
        (copy,) = admin.json("agents", "show", "copied")["instances"]
        assert copy["thumbprint"] == thumbprint(key)
        assert copy["id"] in admin.ok("agents", "show", "copied")
    admin.ok("agents", "suspend", "copied", "--why", "a test")
    again = BrokerAuth(broker.issuer, client_id="copied", key=key, proof_key=key)
    with httpx2.Client(base_url=broker.issuer, auth=again) as client, pytest.raises(TokenRefused):
        client.get("/openai/v1/models")


def test_a_revoked_agent_is_said_to_be(admin: Person, tmp_path: Path) -> None:
    """As JSON with what it was before; the reason is recorded."""
    register(admin, tmp_path, "gone", owner="team-gone")
    outcome = admin.json("agents", "revoke", "gone", "--why", "sold")
    assert outcome["differences"][0]["after"]["status"] == "revoked"
    record = admin.json("audit", "show", str(outcome["record"]))
    told = {"section": "agents", "name": "gone", "status": "revoked", "why": "sold"}
    assert told.items() <= record["groups"]["remedy"].items()


def test_an_agent_that_is_not_there_is_named(admin: Person) -> None:
    """Exit code 1 in one line, to look at and to stop."""
    assert admin.refused("agents", "show", "nobody") == "broker: There is no agent nobody.\n"
    assert "nobody" in admin.refused("agents", "revoke", "nobody", "--why", "w")


def test_what_an_agent_is_called_does_not_move_the_cursor(admin: Person, tmp_path: Path) -> None:
    """Escape sequences in a purpose are written out."""
    register(admin, tmp_path, "sneaky", owner="team-sneaky", purpose="harmless\x1b[2K\u202e")
    shown = admin.ok("agents", "show", "sneaky")
    assert "harmless\\x1b[2K\\u202e" in shown
    assert "\x1b" not in shown


def test_an_attester_is_listed_and_disabled(admin: Person) -> None:
    """At once, by one admin."""
    manifest = "attesters: {old-ci: {kind: oidc, issuer: 'https://old.example', audience: a}}\n"
    admin.ok("apply", "-f", "-", input=manifest)
    assert "https://old.example" in admin.ok("attesters", "list")
    assert "old-ci is disabled now" in admin.ok("attesters", "disable", "old-ci", "--why", "key leaked")
    found = {each["name"]: each["status"] for each in admin.json("attesters", "list")["attesters"]}
    assert found["old-ci"] == "disabled"


def test_the_logs_key_stands_alone_on_a_line(admin: Person, broker: BrokerProcess) -> None:
    """So that `> log.vkey` makes the file that `audit verify --key` takes."""
    assert admin.ok("keys", "show", "--log") == broker.log_key + "\n"
    assert admin.json("keys", "show", "--log") == {"log": broker.log_key}


def test_the_token_keys_are_shown(admin: Person) -> None:
    """Public members alone, and which of them signs."""
    found = admin.json("keys", "show")
    assert found["current"] in [key["kid"] for key in found["tokens"]]
    assert not any("d" in key for key in found["tokens"])
    assert "in use" in admin.ok("keys", "show")
