"""`broker serve`: runs the broker until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.output import Json, refusing


def serve(
    config: Annotated[Path | None, typer.Option(help="The configuration file; ./broker.toml when it is there.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder; ./broker-data by default.")] = None,
    sign_in_link: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print a one-time sign-in link for this operator.")
    ] = None,
    accept_lost_records: Annotated[
        bool,
        typer.Option(
            "--accept-lost-records", help="Go on from an older database, once; a record tells auditors. Ask them first."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Runs the broker; without any configuration on embedded storage, on http://127.0.0.1:8420.

    While no admin has signed in, a one-time sign-in link is printed at each start. With `--json`, one line of JSON
    tells standard output that the broker answers, and where.

    Example: `broker serve --data-dir /var/lib/broker --config /etc/broker.toml`
    """
    with refusing(json):
        from broker.cli import server
        from broker.settings import load

        chosen = load(config, server__host=host, server__port=port, storage__data_dir=data_dir)
        server.run(chosen, sign_in_link=sign_in_link, accept_lost_records=accept_lost_records, json=json)
