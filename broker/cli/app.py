"""Puts the commands together."""

from __future__ import annotations

import typer

from broker.cli import agents, apply, attesters, audit, keys, policy
from broker.cli.backup import backup, restore
from broker.cli.demo import demo
from broker.cli.doctor import doctor
from broker.cli.login import login
from broker.cli.serve import serve

app = typer.Typer(
    name="broker",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Stands between AI agents and the models they call: evidence in, short-lived bound tokens out.",
)
app.command()(serve)
app.command()(demo)
app.command()(login)
app.command()(doctor)
app.command()(backup)
app.command()(restore)
for name, commands in (
    ("apply", apply.commands),
    ("agents", agents.commands),
    ("attesters", attesters.commands),
    ("policy", policy.commands),
    ("audit", audit.commands),
    ("keys", keys.commands),
):
    app.add_typer(commands, name=name)


def run() -> None:
    """Runs the command line."""
    app()
