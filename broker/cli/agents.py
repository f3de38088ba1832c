"""`broker agents`: look at agents, and stop them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from broker.cli.output import Json, print_fields, print_json, print_table, refusing, say, utc

commands = typer.Typer(no_args_is_help=True, help="Agents and clients: list them, look at one, stop one at once.")

Id = Annotated[str, typer.Argument(help="The agent's name.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the record.")]

_OPERATOR = "operator:"


@commands.command("list")
def list_agents(
    owner: Annotated[str, typer.Option(help="Only agents of this owner.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many; all unless given.")] = None,
    json: Json = False,
) -> None:
    """Lists agents and clients by name.

    Example: `broker agents list --owner team-data`
    """
    with refusing(json):
        from broker.cli.api import Api

        with Api() as api:
            found = [agent for page in api.pages("/agents", limit=limit, owner=owner) for agent in page["agents"]]
        if json:
            print_json({"agents": found})
            return
        print_table(
            ("agent", "kind", "owner", "status", "ceiling", "fixed by rule"),
            [(a["id"], a["kind"], a["owner"], a["status"], a["ceiling"], a["enrolled_by"]) for a in found],
            empty="No agent is known yet. Apply a manifest, or let a workload show its evidence.",
        )


@commands.command()
def show(id: Id, json: Json = False) -> None:
    """Shows one agent, with the copies of it that run now.

    Example: `broker agents show nightly-summary`
    """
    with refusing(json):
        from broker.cli.api import Api, segment

        with Api() as api:
            agent: dict[str, Any] = api.get(f"/agents/{segment(id)}")
        if json:
            print_json(agent)
            return
        instances = agent.pop("instances")
        print_fields(agent)
        say()
        print_table(
            ("instance", "key", "attester", "first seen", "ends"),
            [(i["id"], i["thumbprint"], i["attester"], utc(i["first_seen"]), utc(i["ends_at"])) for i in instances],
            empty="No copy of it runs now.",
        )


@commands.command()
def suspend(id: Id, why: Why, json: Json = False) -> None:
    """Takes everything from an agent until it is made active again. Takes effect at once and needs one admin.

    Works on an operator too, under the name that stands in records: `operator:ada`.

    Example: `broker agents suspend nightly-summary --why "unusual volume"`
    """
    _contain(id, "suspended", why, json)


@commands.command()
def revoke(id: Id, why: Why, json: Json = False) -> None:
    """Takes everything from an agent that shall not come back. Takes effect at once and needs one admin.

    Example: `broker agents revoke nightly-summary --why "its repository was sold"`
    """
    _contain(id, "revoked", why, json)


def _contain(id: str, status: str, why: str, json: bool) -> None:
    with refusing(json):
        from broker.cli import outcomes

        operator = id.startswith(_OPERATOR)
        outcomes.contain("operators" if operator else "agents", id.removeprefix(_OPERATOR), status, why, json=json)
