"""`broker login`: signs this machine in."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.output import Json, print_json, refusing, say


def login(
    link: Annotated[str, typer.Argument(help="The one-time link; quote it, for it holds a #.")], json: Json = False
) -> None:
    """Spends a one-time sign-in link: makes a key on this machine and registers it with the broker.

    Example: `broker login 'http://127.0.0.1:8420/login#…'`
    """
    with refusing(json):
        from broker.cli.api import sign_in

        saved, roles = sign_in(link)
        if json:
            print_json({"issuer": saved.issuer, "client_id": saved.client_id, "roles": roles})
        else:
            say(f"Signed in at {saved.issuer} as {saved.client_id} ({', '.join(roles)}).")
