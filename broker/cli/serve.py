"""`broker serve`: runs the broker until it is told to stop."""

from __future__ import annotations

import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from broker import jobs, migrations, settings
from broker.assembly import Broker, assemble
from broker.cli.output import err, refusing
from broker.tokens.sign_in import FIRST_ADMIN
from broker.web.app import App


def serve(
    config: Annotated[Path | None, typer.Option(help="The configuration file; ./broker.toml when it is there.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder; ./broker-data by default.")] = None,
    sign_in_link: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print a one-time sign-in link for this operator.")
    ] = None,
) -> None:
    """Runs the broker on embedded storage; without any configuration on http://127.0.0.1:8420.

    While no admin has signed in, a one-time sign-in link is printed at each start.

    Example: `broker serve --data-dir /var/lib/broker --config /etc/broker.toml`
    """
    with refusing():
        chosen = settings.load(config, server__host=host, server__port=port, storage__data_dir=data_dir)
        logging.basicConfig(
            level=chosen.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
        )
        for chatty in ("alembic", "uvicorn"):
            logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.root.level))
        broker = assemble(chosen, prepare=migrations.upgrade)
        server = uvicorn.Server(_uvicorn(broker, sign_in_link))
        server.run()
        if not server.started:
            raise typer.Exit(1)


def _uvicorn(broker: Broker, sign_in_link: str | None) -> uvicorn.Config:
    chosen = broker.settings.server

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        await broker.start()
        try:
            async with jobs.running(broker):
                await _greet(broker, sign_in_link)
                gc.collect()
                gc.freeze()  # what start-up made lives as long as the process; collecting it again costs every request
                yield
        finally:
            await broker.close()

    return uvicorn.Config(
        App(broker, running),
        host=chosen.host,
        port=chosen.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=chosen.tls_cert,
        ssl_keyfile=chosen.tls_key,
        timeout_graceful_shutdown=10,
    )


async def _greet(broker: Broker, sign_in_link: str | None) -> None:
    err.print(f"The broker answers at [bold]{broker.rules.issuer}[/], data in {broker.settings.storage.data_dir}.")
    err.print(f"The log's key, for auditors to pin: {broker.log_key}", soft_wrap=True, highlight=False)
    name = sign_in_link or (FIRST_ADMIN if broker.directory.active_admins() == 0 else None)
    if name is not None:
        link = await broker.sign_in.link(name)
        err.print(f"[bold]Sign in as {name}[/] (once, within ten minutes, on this machine):")
        err.print(f"  broker login '{link}'", highlight=False)
