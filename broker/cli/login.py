"""`broker login`: signs this machine in."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.output import Json, print_json, refusing, say


def login(
    link: Annotated[str | None, typer.Argument(help="The one-time link; quote it, for it holds a #.")] = None,
    new_key: Annotated[
        bool, typer.Option("--new-key", help="Make the key for a later link, and print its thumbprint.")
    ] = False,
    json: Json = False,
) -> None:
    """Spends a one-time sign-in link: makes a key on this machine and registers it with the broker.

    Once there are two admins, a link is for one key: make that key first, and give its thumbprint to an admin, who puts
    it into the manifest as `operators: {NAME: {roles: [...], new_link: true, key: THUMBPRINT}}`. The link uses it.

    Example: `broker login 'http://127.0.0.1:8420/login#…'`, or before it `broker login --new-key`
    """
    if (link is None) is not new_key:
        raise typer.BadParameter("give the link, or --new-key to make a key for a later one")
    with refusing(json):
        from broker.cli import api

        if link is None:
            thumbprint = api.new_key()
            if json:
                print_json({"thumbprint": thumbprint})
            else:
                say(thumbprint)
                say("Give this to an admin, as `key` in a manifest. The link that comes back works here alone.")
            return
        saved, roles = api.sign_in(link)
        if json:
            print_json({"issuer": saved.issuer, "client_id": saved.client_id, "roles": roles})
        else:
            say(f"Signed in at {saved.issuer} as {saved.client_id} ({', '.join(roles)}).")
