"""`broker audit`: search the trail and look at records; with `exports` and `proofs`, all that an auditor does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import erasure, exports, packages, proofs, record_schema, record_view, saved_queries, watch
from broker.cli.moments import is_age, moment
from broker.cli.output import Json, err, plain, print_json, print_json_items, print_table, progress, refusing, say, utc
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

if TYPE_CHECKING:
    from broker.cli.api import Api

commands = typer.Typer(
    no_args_is_help=True,
    help="""The audit log: search it, take proofs away, verify them offline.

What a broker says about its own log is its claim. `verify` checks it with mathematics, under a key that you pinned.""",
)


@commands.command()
def search(
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
    after: Annotated[int | None, typer.Option(help="Go on after this index.", min=0)] = None,
    limit: Annotated[int, typer.Option(help="At most so many records.", min=1)] = 50,
    all: Annotated[bool, typer.Option("--all", help="Every record that fits, however many.")] = False,
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Oldest first instead of newest first.")] = False,
    saved: Annotated[str, typer.Option(help="Run this saved query; what else you give goes first.")] = "",
    save: Annotated[str, typer.Option(help="Keep what you ask for under this name, and run it.")] = "",
    shared: Annotated[bool, typer.Option("--shared", help="With --save: for everybody.")] = False,
    json: Json = False,
) -> None:
    """Finds records, newest first.

    Example: `broker audit search --agent nightly-summary --outcome deny --since 24h`
    """
    asked: dict[str, Any] = {
        "agent": agent, "owner": owner, "human": human, "kind": kind, "action": action, "outcome": outcome,
        "model": model, "policy": policy, "request_id": request_id, "oldest_first": oldest_first,
        **{f"{name}_ms": int(moment(text)) for name, text in (("since", since), ("until", until)) if text},
    }  # fmt: skip
    if save and (saved or any(map(is_age, (since, until)))):
        raise typer.BadParameter("--save keeps no ages and no other saved query; give --since 24h when you run it")
    with refusing(json):
        from broker.cli.answers import Records
        from broker.cli.api import Api

        with Api() as api:
            if save:
                saved_queries.keep(api, save, asked, shared=shared)
            asked["oldest_first"] = str(oldest_first).lower()
            pages = api.pages(
                "/audit/records", Records, limit=None if all else limit, **asked, after=after, saved=saved
            )
            following: dict[str, int | None] = {"next": None}
            found = _records(api, pages, following, oldest_first=oldest_first, bar=all and not json)
            if json:
                print_json_items("records", found, lambda: following)
                return
            rows = [record_view.row(record) for record in found]
        print_table(record_view.COLUMNS, rows, empty="No record fits.", whole=record_view.WHOLE)
        if following["next"] is not None:
            err.print(f"There may be more: go on with --after {following['next']}.")


@commands.command()
def show(index: proofs.Index, json: Json = False) -> None:
    """Shows one record with everything of it that you may be shown.

    Example: `broker audit show 41`
    """
    with refusing(json):
        from broker.cli.answers import Record
        from broker.cli.api import Api
        from broker.formats.record import GROUPS

        with Api() as api:
            record = api.get(f"/audit/records/{index}", Record)
        if json:
            print_json(record)
            return
        say(f"Record {record['index']}: {record['kind']}, {utc(record['at_ms'] / 1000)}", "bold")
        say(f"Number {record['seq']} of the records of {plain(record_view.of(record))}.")
        record_view.print_groups(
            record["groups"],
            GROUPS,
            record["withheld"],
            record["erased"],
            record["missing"],
            absent="withheld from you",
        )
        say(f"This is the broker's own claim. `broker audit prove {index}` fetches what proves it.")


_COMMANDS = (
    exports.export,
    saved_queries.saved,
    record_schema.schema,
    proofs.prove,
    proofs.verify,
    proofs.checkpoint,
    packages.package,
    packages.redecide,
    watch.watch,
    erasure.erase,
)
for command in _COMMANDS:
    commands.command()(command)


def _records(
    api: Api, pages: Iterator[Any], following: dict[str, int | None], *, oldest_first: bool, bar: bool
) -> Iterator[dict[str, Any]]:
    """The records of all pages, with a bar that shows how much of the log is behind us."""
    size = proofs.checkpoint_size(api) if bar else 0
    with progress("Records", size, json=not bar) as done:
        for page in pages:
            yield from page["records"]
            following["next"] = page["next"]
            if page["records"]:
                last = page["records"][-1]["index"]
                done(last + 1 if oldest_first else max(size - last, 0))
