"""`broker audit watch`: follows a log, and says what is wrong with it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.audit.events import Kind
from broker.cli.output import err, json_text, plain_line, refusing, utc
from broker.cli.proofs import Url
from broker.cli.record_filters import Outcome

if TYPE_CHECKING:
    from broker.cli.alarms import Alarm


def watch(
    key: Annotated[str, typer.Option(help="The log's key, or a file that holds it.", metavar="VKEY")],
    state: Annotated[
        Path, typer.Option(help="The file that keeps what was seen; the same one next time.", dir_okay=False)
    ],
    url: Url = "",
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 10.0,
    stale: Annotated[
        float, typer.Option(help="Seconds after which a log that stands still, or does not answer, is told.", min=1.0)
    ] = 3600.0,
    records: Annotated[
        bool, typer.Option("--records", help="Verify each new record and its running number; needs a sign-in.")
    ] = False,
    kind: Annotated[
        list[Kind] | None, typer.Option(help="Tell each new record of this kind; may be repeated.", metavar="KIND")
    ] = None,
    outcome: Annotated[Outcome | None, typer.Option(help="Tell each new record with this outcome.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Look once, for a timer.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print each alarm as one line of JSON.")] = False,
) -> None:
    """Follows the log until it is ended, and prints a line for each alarm.

    It proves from the public tiles, without a sign-in, that each checkpoint continues the last one. Alarms: the log
    forked or shrank, its checkpoint or its tiles do not verify, it stands still or does not answer, its key was
    replaced. With --records, --kind or --outcome it also verifies every new record, and tells gaps in an agent's
    running numbers and the records that were asked for.

    Exit code 1 if there was an alarm, or one that was told before still holds; 0 if there was none.

    Example: `broker audit watch --key log.vkey --state log.watch --kind LogKeyRotated --json`
    """
    with refusing(json), ExitStack() as stack:
        from broker.cli import alarms, bundles
        from broker.cli.api import Api
        from broker.cli.kept_files import KeptFile
        from broker.cli.log_check import GivenRecords
        from broker.cli.public_log import PublicLog
        from broker.clock import SystemClock

        pinned, clock = bundles.pinned_key(key), SystemClock()
        sought = alarms.Sought(frozenset(kind or ()), outcome or "")
        file = KeptFile(state)
        seen = alarms.Seen.read(file, pinned, clock.now())
        log = stack.enter_context(PublicLog(url))
        reads = records or sought != alarms.Sought()
        given = GivenRecords(stack.enter_context(Api())) if reads else None
        watching = alarms.Watch(
            log, pinned, seen, clock, stale_s=stale, ready=log.is_ready, given=given, sought=sought
        )  # fmt: skip
        raised = False
        try:
            while True:
                for alarm in watching.look():
                    raised = True
                    _print(alarm, clock.now(), json=json)
                seen.write(file)
                if once:
                    break
                time.sleep(every)  # a person waits between two looks; tests look once
        except KeyboardInterrupt:
            err.print("Ended.")
        if raised or seen.told:
            raise typer.Exit(1)


def _print(alarm: Alarm, now: float, *, json: bool) -> None:
    if json:
        line = {"alarm": alarm.what, "at_ms": int(now * 1000), "detail": alarm.detail, **alarm.more}
        typer.echo(json_text(line))
    else:
        typer.echo(f"{utc(now, 'seconds')} {alarm.what}: {plain_line(alarm.detail)}")
