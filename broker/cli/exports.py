"""`broker audit export`: records as files for other systems, each once, however often it runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from broker.cli import proofs
from broker.cli.moments import moment
from broker.cli.output import Json, err, fail, print_json, progress, refusing
from broker.cli.record_filters import (
    Action,
    Agent,
    Human,
    Model,
    OfKind,
    Owner,
    Policy,
    RequestId,
    Since,
    Until,
    WithOutcome,
)
from broker.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from broker.cli.api import Api
    from broker.cli.export_files import CursorState, PartialFile, Sink


class Format(StrEnum):
    """How records are written."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    OCSF = "ocsf"


@dataclass(slots=True)
class _Run:
    """How far an export is: what is written, the cursor behind it, and what ended it before its time."""

    cursor: str
    records: int = 0
    failure: BrokerError | None = None


def export(
    format: Annotated[Format, typer.Option(help="JSON Lines, Parquet, or OCSF events as JSON Lines.")] = Format.JSONL,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A new file; standard output by default.", metavar="FILE", dir_okay=False),
    ] = None,
    after: Annotated[str, typer.Option(help="Go on where the export ended that gave this.", metavar="CURSOR")] = "",
    cursor_state: Annotated[
        Path | None,
        typer.Option("--cursor-state", help="The file that keeps the cursor.", metavar="FILE", dir_okay=False),
    ] = None,
    agent: Agent = "",
    owner: Owner = "",
    human: Human = "",
    kind: OfKind = None,
    action: Action = "",
    outcome: WithOutcome = None,
    model: Model = "",
    policy: Policy = "",
    request_id: RequestId = "",
    since: Since = "",
    until: Until = "",
    json: Json = False,
) -> None:
    """Exports records, oldest first, up to the log's newest checkpoint.

    It ends with a cursor: the next export begins there, and no record comes twice or is left out. Without a filter, it
    stops where a record is missing, with exit code 1. A FILE has its name only when it is whole.

    Example: `broker audit export --format ocsf -o events.jsonl --cursor-state cursor.json`
    """
    _check_usage(format, output, after, cursor_state, json)
    since_ms, until_ms = (moment(text) if text else None for text in (since, until))
    filters: dict[str, object] = {
        "agent": agent,
        "owner": owner,
        "human": human,
        "kind": kind,
        "action": action,
        "outcome": outcome,
        "model": model,
        "policy": policy,
        "request_id": request_id,
        "since_ms": since_ms,
        "until_ms": until_ms,
    }
    with refusing(json):
        from broker.cli.api import Api
        from broker.cli.export_files import CursorState, PartialFile

        state = CursorState(cursor_state) if cursor_state is not None else None
        run = _Run(state.cursor if state is not None else after)
        with Api() as api, ExitStack() as ends:
            target = PartialFile(output) if output is not None else None
            if target is not None:
                ends.callback(target.drop)
            sink = _sink(format, target)
            ends.callback(sink.leave)
            with progress("Records", proofs.checkpoint_size(api), json=json) as done:
                _write(run, _pages(api, run.cursor, filters, done), sink)
            file = _finish(run, sink, target, state)
        _tell(run, file, json=json)


def _check_usage(format: Format, output: Path | None, after: str, cursor_state: Path | None, json: bool) -> None:
    if output is None and (format is Format.PARQUET or cursor_state is not None or json):
        given = "--format parquet" if format is Format.PARQUET else "--json" if json else "--cursor-state"
        raise typer.BadParameter(f"{given} needs a file to write: give -o FILE too", param_hint=given)
    if after and cursor_state is not None:
        raise typer.BadParameter("the file of --cursor-state says where to go on", param_hint="--after")


def _sink(format: Format, target: PartialFile | None) -> Sink:
    from broker.cli.export_files import Lines

    file = target.file if target is not None else sys.stdout.buffer
    if format is Format.OCSF:
        from broker.audit import ocsf

        return Lines(file, lambda record: orjson.dumps(ocsf.event(record)))
    if format is Format.JSONL:
        return Lines(file)
    try:
        from broker.cli.parquet import ParquetRows
    except ImportError as error:
        raise ConfigurationError("pyarrow is not installed here; run `pip install 'broker[parquet]'`.") from error
    return ParquetRows(file)


def _pages(api: Api, after: str, filters: Mapping[str, object], done: Any) -> Iterator[tuple[list[Any], str]]:
    """Pages of records, each with the cursor behind it, from as many requests as it takes.

    Raises:
        Gap: a record that must be there did not come.
        ApiFailed: the broker ended the export, or the connection broke off.
    """
    from broker.audit.continuity import Continuity
    from broker.audit.export import Cursor
    from broker.cli.answers import ApiFailed, Exported

    whole = not any(filters.values())
    continuity = Continuity(Cursor.parse(after).next if after else 0)
    more: object = True
    while more:
        more, begun, page = None, after, []
        for line in api.lines("/audit/export", Exported, after=after, **filters):
            told = line.get("export")
            if told is None:
                if whole:
                    continuity.follow(line["index"], line["agent_tag"], line["seq"])
                page.append(line)
                continue
            after, more = told["cursor"], told.get("more")
            following = Cursor.parse(after).next
            if whole:
                continuity.end(following)
            done(following)
            yield page, after
            page = []
            if "error" in told:
                raise ApiFailed(told.get("detail") or "The broker ended the export.", reason=told["error"])
        if more is None or (more and after == begun):
            raise ApiFailed("The broker ended the export before it was whole. Is it well?", reason="broke_off")


def _write(run: _Run, pages: Iterator[tuple[list[Any], str]], sink: Sink) -> None:
    """Writes whole pages only; what fails ends the run behind the last of them."""
    try:
        for page, cursor in pages:
            sink.write(page)
            run.records += len(page)
            run.cursor = cursor
    except BrokerError as error:
        run.failure = error


def _finish(run: _Run, sink: Sink, target: PartialFile | None, state: CursorState | None) -> Path | None:
    """Gives the file its name, if there is anything in it, and keeps the cursor; gives the file."""
    sink.end(run.cursor)
    if target is not None and run.records:
        target.store()
        if state is not None:
            state.expect(run.cursor, target.partial)
        target.keep()
    if state is not None and run.cursor:
        state.keep(run.cursor)
    return target.path if target is not None and run.records else None


def _tell(run: _Run, file: Path | None, *, json: bool) -> None:
    where = f" in {file}" if file is not None else ""
    if run.failure is not None:
        go_on = f" Go on with --after {run.cursor}" if run.cursor else ""
        kept = f" What came before it is whole{where}: {_count(run.records)}.{go_on}" if run.records else ""
        fail(f"{run.failure.detail}{kept}", reason=run.failure.reason, json=json)
    if json:
        print_json({"records": run.records, "file": str(file) if file is not None else None, "cursor": run.cursor})
        return
    err.print(f"{_count(run.records)}{where}." if run.records else "No new records.")
    err.print(f"The next export goes on with --after {run.cursor}", soft_wrap=True)


def _count(records: int) -> str:
    return f"{records} record{'' if records == 1 else 's'}"
