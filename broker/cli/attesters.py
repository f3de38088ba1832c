"""`broker attesters`: whose evidence is trusted."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.output import Json, print_json, print_table, refusing

commands = typer.Typer(no_args_is_help=True, help="Attesters, the issuers of evidence: list them, disable one at once.")


@commands.command("list")
def list_attesters(json: Json = False) -> None:
    """Lists the issuers of evidence that are trusted.

    Example: `broker attesters list`
    """
    with refusing(json):
        from broker.cli.api import Api

        with Api() as api:
            found = api.get("/attesters")
        if json:
            print_json(found)
            return
        print_table(
            ("attester", "kind", "issuer", "audience", "status"),
            [(a["name"], a["kind"], a.get("issuer"), a.get("audience"), a["status"]) for a in found["attesters"]],
            empty="No attester is trusted, so nothing but registered keys is evidence.",
        )


@commands.command()
def disable(
    name: Annotated[str, typer.Argument(help="The attester's name.")],
    why: Annotated[str, typer.Option("--why", help="The reason, for the record.")],
    json: Json = False,
) -> None:
    """Stops trusting an attester: its evidence is refused from now on. Takes effect at once and needs one admin.

    Example: `broker attesters disable github --why "their signing key leaked"`
    """
    with refusing(json):
        from broker.cli import outcomes

        outcomes.contain("attesters", name, "disabled", why, json=json)
