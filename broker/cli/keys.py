"""`broker keys`: the broker's public keys."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.output import Json, print_json, print_table, refusing, say

commands = typer.Typer(no_args_is_help=True, help="The broker's public keys.")


@commands.command()
def show(
    log: Annotated[bool, typer.Option("--log", help="Only the log's key, in the one line that auditors pin.")] = False,
    json: Json = False,
) -> None:
    """Shows the keys that verify tokens, and the log's key.

    Example: `broker keys show --log > log.vkey`
    """
    with refusing(json):
        from broker.cli.api import Api

        with Api() as api:
            found = api.get("/keys")
        if json:
            print_json({"log": found["log"]} if log else found)
            return
        if log:
            typer.echo(found["log"])
            return
        print_table(
            ("token key", "type", "algorithm", ""),
            [
                (k["kid"], k["kty"], k["alg"], "signs now" if k["kid"] == found["current"] else "")
                for k in found["tokens"]
            ],
            empty="The broker has no token key.",
        )
        say()
        say(f"The log's key, for auditors to pin: {found['log']}")
