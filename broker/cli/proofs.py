"""`broker audit prove, verify, checkpoint`: what an outsider needs to check the log, and the check itself."""

from __future__ import annotations

import time
from functools import partial
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

        file = output or Path(f"record-{index}.json")
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
    file: Annotated[list[Path], typer.Argument(help="Bundles.", metavar="FILE...", exists=True, dir_okay=False)],
    key: Annotated[
        str,
        typer.Option(help="The log's key, or a file that holds it; from elsewhere than the bundle.", metavar="VKEY"),
    ],
    checkpoint_state: State = None,
    log_keys: Annotated[
        Path | None,
        typer.Option(
            "--log-keys", help="What GET /log/keys gave, if the log's key was replaced.", metavar="FILE", exists=True
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Verifies bundles on this machine alone: no broker, no sign-in, no network. Exit code 1 if one does not hold.

    A bundle holds if the pinned key, or one that it leads to, signed its checkpoint, the record is in the log of that
    checkpoint, and what the bundle shows is what the record committed to. Two checkpoints of one size that differ are
    found as well.

    Example: `broker audit verify record.json --key log.vkey`
    """
    with refusing(json):
        from broker.cli import bundles
        from broker.formats import succession

        kept = bundles.read(checkpoint_state).decode("utf-8", "replace") if checkpoint_state is not None else None
        successions = succession.published(bundles.read(log_keys)) if log_keys is not None else ()
        auditor = bundles.Auditor(bundles.pinned_key(key), kept, successions)
        results = []
        with progress("Bundles", len(file), json=json) as done:
            for each in file:
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
    json: Json = False,
) -> None:
    """Fetches the newest checkpoint; with a key and a kept one, has the log prove that it only grew.

    The checkpoint goes to standard output as it was signed, what is to be said about it to standard error. With
    --checkpoint-state the file holds the new one afterwards, unless it contradicts the old.

    Example: `broker audit checkpoint --key log.vkey --checkpoint-state log.checkpoint`
    """
    if checkpoint_state is not None and not key:
        raise typer.BadParameter(
            "a checkpoint is kept only under a key: give --key too", param_hint="--checkpoint-state"
        )
    with refusing(json):
        from broker.cli import bundles
        from broker.cli.api import Api
        from broker.formats import checkpoint as checkpoints
        from broker.formats import succession

        pinned = bundles.pinned_key(key) if key else None
        with Api() as api:
            note = api.public("/log/checkpoint").decode("utf-8", "replace")
            successions = succession.published(api.public("/log/keys")) if pinned else ()
            head = bundles.opened(note, pinned, successions) if pinned else checkpoints.parse_unverified(note)
            grew_from, followed = None, succession.successors_of(pinned, successions) if pinned else []
            if pinned is not None:
                trees = [(tree, bundles.HANDOVER) for tree in bundles.handovers(pinned, successions, head)]
                if checkpoint_state is not None and checkpoint_state.exists():
                    kept = bundles.read(checkpoint_state).decode("utf-8", "replace")
                    old = bundles.opened(kept, pinned, successions)
                    trees.insert(0, (old, bundles.KEPT))
                    grew_from = old.size
                for tree, source in trees:
                    bundles.check_growth(tree, head, partial(_consistency, api, tree.size, head.size), source)
            if checkpoint_state is not None:
                bundles.keep(checkpoint_state, note)
        now = followed[-1].new if followed else None
        if json:
            told = {"origin": head.origin, "size": head.size, "root": head.root.hex(), "note": note}
            print_json({**told, "verified": pinned is not None, "continues": grew_from, "replaced_by": now})
            return
        typer.echo(note, nl=False)
        said = "signed by the key that you pinned" if now is None else "signed by a key that follows the one you pinned"
        said = said if pinned else "not verified: give --key"
        err.print(f"{head.size} entries, {said}.")
        if now is not None:
            err.print("The log's key was replaced, by a statement that both keys signed. Pin this one from now on:")
            typer.echo(now, err=True)
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


def _consistency(api: Api, old: int, new: int) -> list[bytes]:
    return [bytes.fromhex(item) for item in api.get("/audit/consistency", old=old, new=new)["hashes"]]


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
