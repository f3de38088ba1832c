"""The process that serves. Apart from `serve`, so that the other commands start without loading the whole broker."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import orjson
import typer
import uvicorn

from broker import jobs, migrations
from broker.assembly import Broker, assemble
from broker.cli.output import err
from broker.errors import BrokerError
from broker.settings import Settings
from broker.tokens.sign_in import FIRST_ADMIN
from broker.web.app import App
from broker.web.protocol import BoundedProtocol


def _stopped(_signal: int, _frame: object) -> NoReturn:
    """Being told to stop is no failure."""
    raise SystemExit(0)


def run(settings: Settings, *, sign_in_link: str | None, json: bool, accept_lost_records: bool = False) -> None:
    """Serves until a signal ends it.

    Args:
        settings: how.
        sign_in_link: the operator for whom a one-time link is printed; nobody, once an admin can sign in.
        accept_lost_records: go on although records that were published are gone.
        json: say on standard output, in one line of JSON, that it answers.

    Raises:
        BrokerError: it did not start, or could not go on.
    """
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    logging.getLogger("alembic").setLevel(max(logging.WARNING, logging.root.level))
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of every stranger's garbage
    broker = assemble(settings, prepare=migrations.upgrade)
    server = _Server(broker, sign_in_link=sign_in_link, accept_lost_records=accept_lost_records, json=json)
    for told in (signal.SIGTERM, signal.SIGINT):
        signal.signal(told, _stopped)  # uvicorn stops in good order, and raises the signal again at the end
    try:
        server.run()
    except SystemExit as error:  # uvicorn's own code for a start that failed is 3
        if server.failure is None:
            raise typer.Exit(1 if error.code else 0) from error
    if server.failure is not None:
        raise server.failure


class _Server(uvicorn.Server):
    """Greets once it listens, and keeps the reason why it could not start."""

    def __init__(self, broker: Broker, *, sign_in_link: str | None, accept_lost_records: bool, json: bool) -> None:
        self._broker = broker
        self._sign_in_link = sign_in_link
        self._json = json
        self.failure: BrokerError | None = None
        super().__init__(_uvicorn(broker, self, accept_lost_records=accept_lost_records))
        logging.getLogger("uvicorn.error").addFilter(self._explain)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts, and says so; the link works from the moment that it is shown."""
        await super().startup(sockets)
        if self.started:
            await _greet(self._broker, self._sign_in_link, json=self._json)

    def _explain(self, record: logging.LogRecord) -> bool:
        """Keeps uvicorn's many lines about a failed start out of the log: `refusing` says it in one."""
        if isinstance(record.msg, OSError):
            server, why = self._broker.settings.server, os.strerror(record.msg.errno or 0)
            self.failure = self._broker.settings.refusal(
                "server.port",
                f"Cannot listen on {server.host}:{server.port}: {why}. Choose another --port, or stop what is there.",
            )
        return self.failure is None


_COLLECTED_AFTER = (20_000, 10, 20)
"""Objects made before the youngest are collected: requests leave few cycles, and Python's 700 is some ten requests."""


def _uvicorn(broker: Broker, server: _Server, *, accept_lost_records: bool) -> uvicorn.Config:
    chosen = broker.settings.server

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        try:
            await broker.start(accept_lost_records=accept_lost_records)
        except BrokerError as error:
            server.failure = error
            raise
        try:
            async with jobs.running(broker):
                gc.collect()
                gc.set_threshold(*_COLLECTED_AFTER)
                gc.freeze()  # what start-up made lives as long as the process; collecting it again costs every request
                yield
        finally:
            await broker.close()

    return uvicorn.Config(
        App(broker, running),
        host=chosen.host,
        port=chosen.port,
        loop="uvloop",
        http=BoundedProtocol,
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


async def _greet(broker: Broker, sign_in_link: str | None, *, json: bool) -> None:
    name = sign_in_link or (None if broker.directory.signed_in() else FIRST_ADMIN)
    link = None
    if name is not None:
        try:
            link = await broker.sign_in.link(name)
        except BrokerError as error:
            err.print(f"[bold red]No sign-in link:[/] {error.detail}")
    if json:
        told = {
            "issuer": broker.rules.issuer,
            "data_dir": str(broker.settings.storage.data_dir),
            "log_key": broker.log_key,
            "sign_in_link": link,
        }
        typer.echo(orjson.dumps(told))
        return
    err.print(f"The broker answers at [bold]{broker.rules.issuer}[/], data in {broker.settings.storage.data_dir}.")
    err.print(f"The log's key, for auditors to pin: {broker.log_key}")
    if link is not None:
        err.print(f"[bold]Sign in as {name}[/] (once, within ten minutes, on this machine):")
        err.print(f"  broker login '{link}'", markup=False)
