"""`broker audit verify --log`: the whole log, and records of it, verified and told to a person."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import typer

from broker.audit.events import Kind
from broker.cli import answers, bundles, whole_log
from broker.cli.answers import Entries
from broker.cli.api import Api
from broker.cli.kept_files import KeptCheckpoint
from broker.cli.output import err, plain, print_json, progress, say
from broker.cli.proved_records import place_of
from broker.cli.public_log import PublicLog
from broker.cli.whole_log import CheckedRecords
from broker.errors import ProofInvalid

_A_PAGE = 2_000
"""Records that the broker gives with what proves them in one answer, at most."""

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
    kept, newer = KeptCheckpoint(state) if state is not None else None, None
    with PublicLog(url, tiles) as log:
        found = whole_log.verified(log, pinned, kept.note() if kept is not None else None, state)
        with progress("Entries", found.head.size, json=json) as done:
            whole_log.check_tiles(found.tree, done)
        start, end, checked = 0, 0, None
        if wanted is not None:
            start, end = wanted[0], found.head.size if wanted[1] is None else wanted[1]
            if not start < end <= found.head.size:
                raise ProofInvalid(
                    f'There are no records in "{records}": the log has 0 to {found.head.size - 1}; END is not in it.'
                )
            with Api() as api, progress("Records", end - start, json=json) as done:
                given = GivenRecords(api)
                checked = whole_log.check_records(found.tree, start, end, given.pages(start, end), done, given.erasures)
        if kept is not None:
            newer = kept.keep(found, log, pinned)
    if json:
        told = {"origin": found.head.origin, "size": found.head.size, "root": found.head.root.hex(), "note": found.note}
        print_json(
            {
                "verified": True, **told, "continues": found.continues, "replaced_by": found.replaced_by,
                "newer_kept": newer, "tiles_fetched": log.fetched, "records": [start, end] if wanted else None,
                "not_shown": checked and {
                    "withheld": checked.withheld, "erased": checked.erased, "untold": checked.untold
                },
            }
        )  # fmt: skip
        return
    say(f"The log holds: {found.head.size} entries of {found.head.origin}, every tile verified.", "bold green")
    if found.continues is not None:
        say(f"It continues the {found.continues} entries of the checkpoint that you kept.")
    if checked is not None:
        whose = f"of {checked.agents} principals"
        say(f"Records {start} to {end - 1} are those of the log, {whose}, no running number missing.")
        for line in _not_shown(checked):
            say(line)
    tell_newer(newer)
    tell_replaced(found.replaced_by)


def tell_newer(size: int | None) -> None:
    """Says that another run kept a newer checkpoint meanwhile, if it did."""
    if size is not None:
        err.print(f"Another run kept a checkpoint of {size} entries meanwhile, which continues this one. It stays.")


def tell_replaced(now: str | None) -> None:
    """Says that the pinned key was followed by another, if it was."""
    if now is not None:
        err.print("The log's key was replaced, by a statement that both keys signed. Pin this one from now on:")
        typer.echo(plain(now), err=True)


class GivenRecords:
    """Records as a broker gives them to whoever is signed in. Each reading of them is recorded.

    Args:
        api: asks.
    """

    def __init__(self, api: Api) -> None:
        self._api = api

    def pages(self, start: int, end: int) -> Iterator[Sequence[object]]:
        """Page after page of the records [start, end) with what proves them; ends early if the broker gives no more."""
        while start < end:
            page = self._api.get("/audit/entries", Entries, start=start, end=end)["entries"]
            if not page:
                return
            yield page
            start += len(page)

    def erasures(self, start: int, end: int) -> Iterator[object]:
        """The records of erasures in [start, end) with what proves them, from one request for all near each other.

        Of later ones the index is given, and nothing that proves it.
        """
        wanted: list[int] = []
        for page in self._api.pages("/audit/records", answers.Records, limit=None, kind=Kind.RECORDS_ERASED):
            found = [record["index"] for record in page["records"]]
            yield from ({"index": index} for index in found if index >= end)
            wanted += [index for index in found if start <= index < end]
            if found and found[-1] <= start:  # they come newest first
                break
        for stretch in _stretches(sorted(wanted)):
            those = set(stretch)
            for given in self.pages(stretch[0], stretch[-1] + 1):
                yield from (each for each in given if place_of(each) in those)


def _stretches(indices: Iterable[int]) -> Iterator[list[int]]:
    """The indices in groups that one answer may hold."""
    stretch: list[int] = []
    for index in indices:
        if stretch and index >= stretch[0] + _A_PAGE:
            yield stretch
            stretch = []
        stretch.append(index)
    if stretch:
        yield stretch


def _not_shown(found: CheckedRecords) -> Iterator[str]:
    """What of the records is not shown, and what of that nobody could be told."""
    groups = ", ".join(f"{name} of {count}" for name, count in found.withheld.items())
    withheld = f"{sum(found.withheld.values())} groups withheld from you{f' ({groups})' if groups else ''}"
    yield f"Not shown: {withheld}, {found.erased} erased, each as a record of an erasure says."
    if found.untold:
        yield (
            f"Not proved: that {found.untold} more groups were erased. What records of erasures say (remedy) is "
            "withheld from you, too."
        )


def _range(text: str) -> tuple[int, int | None]:
    found = _RANGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no range; write 100:200, or 100: for all from there", param_hint="--records"
        )
    return int(found[1]), int(found[2]) if found[2] else None
