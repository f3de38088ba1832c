"""`broker audit prove, verify, checkpoint`: what an outsider needs to check the log, and the check itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.cli import record_view
from broker.cli.output import Json, err, plain, print_json, progress, refusing, say

if TYPE_CHECKING:
    from broker.cli.api import Api
    from broker.cli.bundles import Auditor

Index = Annotated[int, typer.Argument(help="The record's index in the log.", min=0)]
State = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint-state", help="The file with the checkpoint that you kept.", metavar="FILE", dir_okay=False
    ),
]
Url = Annotated[
    str, typer.Option("--url", help="The broker's address; that of your sign-in by default.", metavar="URL")
]

_CHECKPOINT_TRIES = 40
_CHECKPOINT_WAIT_S = 0.25


def prove(
    index: Index,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write it; record-INDEX.json by default.", dir_okay=False),
    ] = None,
    json: Json = False,
) -> None:
    """Fetches a bundle: one file that proves a record to anybody who knows the log's key.

    Example: `broker audit prove 41 -o record.json`
    """
    with refusing(json):
        from broker.cli.api import Api
        from broker.errors import ConfigurationError

        file = output or Path(f"record-{index}.json")
        if file.exists():
            raise ConfigurationError(f"{file} exists already; name another place for the bundle with -o.")
        with Api() as api:
            api.get(f"/audit/records/{index}")
            _wait_for_checkpoint(api, index)
            data = api.download(f"/audit/records/{index}/bundle")
        file.write_bytes(data)
        if json:
            print_json({"index": index, "file": str(file), "bytes": len(data)})
            return
        say(f"Wrote {file}. It is verified without the broker, under the key that you pinned before:")
        say(f"  broker audit verify {file} --key log.vkey")


def verify(
    file: Annotated[
        list[Path] | None, typer.Argument(help="Bundles.", metavar="FILE...", exists=True, dir_okay=False)
    ] = None,
    key: Annotated[
        str,
        typer.Option(help="The log's key, or a file that holds it; from elsewhere than the bundle.", metavar="VKEY"),
    ] = "",
    log: Annotated[bool, typer.Option("--log", help="Verify the whole log from its public bytes.")] = False,
    records: Annotated[
        str,
        typer.Option(help="With --log: also the records from START up to END; needs a sign-in.", metavar="START:END"),
    ] = "",
    url: Url = "",
    tiles: Annotated[
        Path | None,
        typer.Option(help="With --log: keep what is verified, and fetch only what is new.", file_okay=False),
    ] = None,
    checkpoint_state: State = None,
    log_keys: Annotated[
        Path | None,
        typer.Option(
            "--log-keys", help="What GET /log/keys gave, if the log's key was replaced.", metavar="FILE", exists=True
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Verifies bundles, or the whole log. Exit code 1 if something does not hold.

    A bundle is verified on this machine alone: no broker, no sign-in, no network. It holds if the pinned key, or one
    that it leads to, signed its checkpoint, the record is in the log of that checkpoint, and what the bundle shows is
    what the record committed to. Two checkpoints of one size that differ are found as well.

    With --log everything that anybody may read is fetched and verified, without a sign-in: the newest checkpoint, each
    tile of its tree, that it continues the checkpoint that you kept, and the log's keys. The new checkpoint is kept.

    Example: `broker audit verify record.json --key log.vkey`

    Example: `broker audit verify --log --key log.vkey --checkpoint-state log.checkpoint --tiles log-tiles`
    """
    if not key:
        raise typer.BadParameter("nothing is verified without the log's key", param_hint="--key")
    if bool(file) == log:
        raise typer.BadParameter("give files, or --log, and not both", param_hint="FILE")
    if not log and (records or url or tiles):
        raise typer.BadParameter("these go with --log", param_hint="--records, --url, --tiles")
    with refusing(json):
        if log:
            from broker.cli import log_check

            log_check.run(key, records, url, tiles, checkpoint_state, json=json)
        else:
            _verify_files(file or [], key, checkpoint_state, log_keys, json=json)


def _verify_files(files: list[Path], key: str, state: Path | None, log_keys: Path | None, *, json: bool) -> None:
    from broker.cli import bundles
    from broker.cli.kept_files import kept_note
    from broker.formats import succession

    kept = kept_note(state, bundles.read(state)) if state is not None else None
    successions = succession.published(bundles.read(log_keys)) if log_keys is not None else ()
    auditor = bundles.Auditor(bundles.pinned_key(key), kept, successions)
    results = []
    with progress("Bundles", len(files), json=json) as done:
        for each in files:
            results.append(_verified(auditor, each))
            done(len(results))
    held = all(result["verified"] for result in results)
    if json:
        print_json({"verified": held, "files": results})
    else:
        for result in results:
            _show_verified(result)
    if not held:
        raise typer.Exit(1)


def checkpoint(
    key: Annotated[str, typer.Option(help="The log's key, or a file that holds it.", metavar="VKEY")] = "",
    checkpoint_state: State = None,
    url: Url = "",
    json: Json = False,
) -> None:
    """Fetches the newest checkpoint; with a key and a kept one, proves from the log's tiles that it only grew.

    The checkpoint goes to standard output as it was signed, what is to be said about it to standard error. With
    --checkpoint-state the file holds the new one afterwards, unless it contradicts the old. It needs no sign-in.

    Example: `broker audit checkpoint --key log.vkey --checkpoint-state log.checkpoint`
    """
    if checkpoint_state is not None and not key:
        raise typer.BadParameter(
            "a checkpoint is kept only under a key: give --key too", param_hint="--checkpoint-state"
        )
    with refusing(json):
        from broker.cli import bundles, log_check, whole_log
        from broker.cli.kept_files import KeptCheckpoint
        from broker.cli.public_log import PublicLog
        from broker.formats import checkpoint as checkpoints

        grew_from, now, newer = None, None, None
        with PublicLog(url) as log:
            if key:
                pinned, kept = bundles.pinned_key(key), KeptCheckpoint(checkpoint_state) if checkpoint_state else None
                found = whole_log.verified(log, pinned, kept.note() if kept is not None else None, checkpoint_state)
                note, head, grew_from, now = found.note, found.head, found.continues, found.replaced_by
                if kept is not None:
                    newer = kept.keep(found, log, pinned)
            else:
                note = log.checkpoint()
                head = checkpoints.parse_unverified(note)
        if json:
            told = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": note}
            print_json({**told, "verified": bool(key), "continues": grew_from, "replaced_by": now, "newer_kept": newer})
            return
        typer.echo(plain(note), nl=False)  # without a key it may be anything
        said = "signed by the key that you pinned" if now is None else "signed by a key that follows the one you pinned"
        said = said if key else "not verified: give --key"
        err.print(f"{head.size} entries, {said}.")
        log_check.tell_newer(newer)
        log_check.tell_replaced(now)
        if grew_from is not None:
            err.print(f"The log proved that it continues the {grew_from} entries of the checkpoint that you kept.")


def checkpoint_size(api: Api) -> int:
    """How many entries the log says that it has."""
    from broker.formats import checkpoint as checkpoints

    return checkpoints.parse_unverified(api.public("/log/checkpoint").decode("utf-8", "replace")).size


def _wait_for_checkpoint(api: Api, index: int) -> None:
    """A record is under a checkpoint within a second; when it takes longer, the broker says what it waits for."""
    for _ in range(_CHECKPOINT_TRIES):
        if checkpoint_size(api) > index:
            return
        time.sleep(_CHECKPOINT_WAIT_S)


def _verified(auditor: Auditor, file: Path) -> dict[str, Any]:
    from broker.cli import bundles
    from broker.errors import BrokerError

    try:
        proved = auditor.verify(bundles.read(file), str(file))
    except BrokerError as error:
        return {"file": str(file), "verified": False, "error": error.reason, "detail": error.detail}
    found = proved.record
    return {
        "file": str(file),
        "verified": True,
        "index": found.index,
        "size": found.size,
        "origin": found.origin,
        "kind": found.kind,
        "seq": found.seq,
        "groups": found.groups,
        "withheld": proved.withheld,
        "kept": proved.kept,
    }


def _show_verified(result: dict[str, Any]) -> None:
    if not result["verified"]:
        say(f"{result['file']}: NOT PROVED. {result['detail']}", "bold red")
        return
    from broker.formats.record import GROUPS

    say(f"{result['file']}: proved.", "bold green")
    say(f"{result['kind']}, at index {result['index']} of the {result['size']} entries of {plain(result['origin'])}.")
    record_view.print_groups(result["groups"], GROUPS, result["withheld"])
    if result["kept"] == "same":
        say("It is under the checkpoint that you kept.")
    elif result["kept"]:
        say(
            "Its checkpoint is not the one that you kept. A bundle alone cannot prove that one continues the other: "
            "`broker audit checkpoint --checkpoint-state FILE` asks the log for that proof.",
            "yellow",
        )
