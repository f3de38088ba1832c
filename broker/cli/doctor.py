"""`broker doctor`: what is wrong, or soon will be, on this machine and in the running broker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from broker.cli.output import Json, plain, print_json, print_table, refusing

if TYPE_CHECKING:
    from broker.clock import Clock
    from broker.health.finding import Finding
    from broker.settings import Settings

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "not asked": "dim"}
_CLOCK_S = 2.0
"""How far this machine's clock may be from the broker's: a proof of ours is refused at the window's edge."""


def doctor(
    config: Annotated[Path | None, typer.Option(help="The configuration file; ./broker.toml when it is there.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder; ./broker-data by default.")] = None,
    json: Json = False,
) -> None:
    """Looks at everything that the broker needs, and says what to do about what is not well.

    First this machine: configuration, data folder, disk, keys, secrets, certificate, clock. Run it as the broker's
    user and with its variables. Then the running broker, by your sign-in: its log and checkpoint, its issuers and
    endpoints as it reaches them now, its policies and people. Nothing is changed, and no secret is shown.

    The exit code is 1 if anything fails, else 0.

    Example: `broker doctor --config /etc/broker.toml`
    """
    with refusing(json):
        from broker.clock import SystemClock
        from broker.health import machine

        clock = SystemClock()
        settings, found = machine.examine(config, data_dir, clock)
        found += _asked(settings, clock)
        failed = any(finding.status == "fail" for finding in found)
        if json:
            print_json({"ok": not failed, "findings": [asdict(finding) for finding in found]})
        else:
            print_table(
                ("", "what", "found", "to do"),
                [(Text(f.status, _STYLES[f.status]), f.name, Text(plain(f.found)), f.advice) for f in found],
                empty="Nothing was looked at.",
                whole=("", "what"),
            )
        if failed:
            raise typer.Exit(1)


def _asked(settings: Settings | None, clock: Clock) -> Iterator[Finding]:
    """What the running broker says, if somebody is signed in."""
    from broker.cli.api import Api, saved_login
    from broker.errors import BrokerError, ConfigurationError
    from broker.health.finding import Finding, worse

    try:
        login = saved_login()
    except ConfigurationError:
        yield Finding("running broker", "not asked", "nobody is signed in here", "sign in with broker login LINK")
        return
    try:
        with Api(login) as api:
            api.get("/whoami")  # the token is there before the time is taken
            begun = clock.now()
            answer = api.get("/health")
            ended = clock.now()
    except BrokerError as error:
        yield Finding("running broker", "fail", error.detail, "start it, or sign in to the one that runs")
        return
    if settings is not None and settings.issuer != login.issuer:
        told = f"{login.issuer} answers, and the configuration here is of {settings.issuer}"
        yield Finding("running broker", "warn", told, "give the --config of that broker, or sign in to this one")
    else:
        yield Finding("running broker", "ok", f"{login.issuer} answers")
    # It took its time somewhere between the two moments.
    said = answer["now_ms"] / 1000
    off = said - ended if said > ended else min(said - begun, 0.0)
    status = worse(abs(off), warn=_CLOCK_S, fail=30.0)
    advice = "set the clock that is wrong: proofs made here may be refused" if status != "ok" else ""
    yield Finding("clock, the broker's", status, f"{off:+.1f} s from this machine's", advice)
    for found in answer["findings"]:
        yield Finding(found["name"], found["status"], found["found"], found["advice"])
