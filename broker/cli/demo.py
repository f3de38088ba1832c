"""`broker demo`: plays the main job on this machine and prints what happened."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from broker.cli.output import Json, out, print_json, refusing


def demo(
    json: Json = False,
    keep: Annotated[
        Path | None, typer.Option(help="Keep everything in this new folder, to look around.", metavar="DIR")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Where the broker listens; a free port by default.", min=1, max=65535)
    ] = None,
) -> None:
    """Plays the main job from end to end against a broker of its own: evidence, token, call, refusals, change, audit.

    Real HTTP, on this machine alone, with stand-ins for the platform and the provider; everything is stopped and
    removed afterwards. The exit code is 0 only if every step held.

    Example: `broker demo --keep demo-data`
    """
    with refusing(json):
        from broker.clock import SystemClock
        from broker.demo import next_steps
        from broker.demo.play import a_folder, play
        from broker.demo.stage import Stage
        from broker.demo.transcript import Page, Transcript

        page = Page(Console(quiet=True) if json else out)
        transcript = Transcript(page, SystemClock())
        signal.signal(signal.SIGTERM, _stop)
        with a_folder(keep) as folder:
            held = play(Stage(folder, port=port), transcript)
        told = transcript.to_json()
        if json:
            print_json(told)
        if not held:
            raise typer.Exit(1)
        page.heading(f"All {len(transcript.steps)} steps held, in {told['took_s']:.1f} s.")
        if keep is not None:
            page.heading("To look around in what was kept")
            page.verbatim(next_steps.looking_around(_command(), str(folder)), indent="")
        page.heading("Your turn")
        page.verbatim(next_steps.text(_command()), indent="")


def _stop(_signal: int, _frame: object) -> None:
    """Leaves as Ctrl-C does, so that everything is stopped on the way out."""
    raise KeyboardInterrupt


def _command() -> str:
    """How this command was called, if that is a path; else its name."""
    called = Path(sys.argv[0])
    return str(called) if called.parent != Path() and not called.is_absolute() else "broker"
