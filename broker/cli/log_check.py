"""`broker audit verify --log`: the whole log, and records of it, verified and told to a person."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import typer

from broker.audit.events import Kind
from broker.cli import bundles, whole_log
from broker.cli.api import Api
from broker.cli.output import err, plain, print_json, progress, say
from broker.cli.public_log import PublicLog
from broker.errors import ProofInvalid

_RANGE = re.compile(r"(\d{1,18}):(\d{0,18})", re.ASCII)


def run(key: str, records: str, url: str, tiles: Path | None, state: Path | None, *, json: bool) -> None:
    """Verifies, and then keeps the new checkpoint.

    Args:
        key: the pinned key, or its file.
        records: "START:END" of the records to verify besides, "START:" for all from there; "" for none.
        url: the broker's address; that of the sign-in if empty.
        tiles: the folder that keeps tiles.
        state: the file that keeps the checkpoint.
        json: for machines.

    Raises:
        BrokerError: something does not hold; the file with the checkpoint stays as it is.
    """
    wanted = _range(records) if records else None
    pinned = bundles.pinned_key(key)
    with PublicLog(url, tiles) as log:
        found = whole_log.verified(log, pinned, whole_log.kept_note(state))
        with progress("Entries", found.head.size, json=json) as done:
            whole_log.check_tiles(found.tree, done)
        start, end, agents = 0, 0, 0
        if wanted is not None:
            start, end = wanted[0], found.head.size if wanted[1] is None else wanted[1]
            if not start < end <= found.head.size:
                raise ProofInvalid(
                    f"There are no records {records}: the log has {found.head.size} under its checkpoint."
                )
            with Api() as api, progress("Records", end - start, json=json) as done:
                agents = whole_log.check_records(
                    found.tree, start, end, entries(api, start, end), done, partial(erasures, api)
                )
    if state is not None:
        bundles.keep(state, found.note)
    if json:
        told = {"origin": found.head.origin, "size": found.head.size, "root": found.head.root.hex(), "note": found.note}
        print_json(
            {
                "verified": True, **told, "continues": found.continues, "replaced_by": found.replaced_by,
                "tiles_fetched": log.fetched, "records": [start, end] if wanted else None,
            }
        )  # fmt: skip
        return
    say(f"The log holds: {found.head.size} entries of {found.head.origin}, every tile verified.", "bold green")
    if found.continues is not None:
        say(f"It continues the {found.continues} entries of the checkpoint that you kept.")
    if wanted is not None:
        say(f"Records {start} to {end - 1} are those of the log, of {agents} agents, no running number missing.")
    tell_replaced(found.replaced_by)


def tell_replaced(now: str | None) -> None:
    """Says that the pinned key was followed by another, if it was."""
    if now is not None:
        err.print("The log's key was replaced, by a statement that both keys signed. Pin this one from now on:")
        typer.echo(plain(now), err=True)


def entries(api: Api, start: int, end: int) -> Iterator[Sequence[object]]:
    """Page after page of the records [start, end) with what proves them; ends early if the broker gives no more."""
    while start < end:
        answer = api.get("/audit/entries", start=start, end=end)
        page = answer.get("entries") if isinstance(answer, dict) else None
        if not isinstance(page, list) or not page:
            return
        yield page
        start += len(page)


def erasures(api: Api) -> Iterator[object]:
    """Every record of an erasure with what proves it, as `entries` gives records."""
    for page in api.pages("/audit/records", limit=None, kind=Kind.RECORDS_ERASED):
        for found in page["records"]:
            for entry in entries(api, found["index"], found["index"] + 1):
                yield from entry


def _range(text: str) -> tuple[int, int | None]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no range; write 100:200, or 100: for all from there", param_hint="--records"
        )
    return int(found[1]), int(found[2]) if found[2] else None
