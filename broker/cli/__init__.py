"""The command line: one file a noun."""

from __future__ import annotations


def main() -> None:
    """The `broker` command."""
    from broker.cli.app import run

    run()
