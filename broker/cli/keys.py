"""`broker keys`: the broker's own keys; letting one follow another, and sealing them on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from broker.cli.output import Json, print_json, print_table, refusing, say, utc

commands = typer.Typer(no_args_is_help=True, help="The broker's own keys: show them, replace them, seal them.")

Config = Annotated[Path | None, typer.Option(help="The configuration file; ./broker.toml when it is there.")]
DataDir = Annotated[Path | None, typer.Option(help="The data folder; ./broker-data by default.")]


@commands.command()
def show(
    log: Annotated[bool, typer.Option("--log", help="Only the log's key, in the one line that auditors pin.")] = False,
    json: Json = False,
) -> None:
    """Shows the keys that verify tokens, and the log's key.

    Example: `broker keys show --log > log.vkey`
    """
    with refusing(json):
        from broker.cli.api import Api

        with Api() as api:
            found = api.get("/keys")
        if json:
            print_json({"log": found["log"]} if log else found)
            return
        if log:
            typer.echo(found["log"])
            return
        _print(found)


@commands.command()
def rotate(
    log: Annotated[bool, typer.Option("--log", help="The log's key, instead of the one that signs tokens.")] = False,
    compromised: Annotated[
        str | None,
        typer.Option(
            help="Somebody else may hold this key: it ends at once. Its id, `current`, or `all`.", metavar="KEY"
        ),
    ] = None,
    why: Annotated[str, typer.Option(help="What the record says.")] = "asked for",
    json: Json = False,
) -> None:
    """Lets another key follow; the schedule in keys.rotation_days does it by itself.

    A token key is published ten minutes before it signs, and the one before it verifies until its last token has ended.
    A compromised one ends at once with every token that it signed: agents exchange their evidence anew. The published
    key takes its place if there is one. Whoever copied the folder has that one too, and those that still verify: with
    `all` every key ends and a fresh one signs; then replace the log's with --log --compromised current.

    The log's key is followed by a statement that both keys sign, so that auditors who pinned the old one can go on
    (`broker audit checkpoint` does); for keys.log_overlap_days both sign.

    Examples:
        broker keys rotate
        broker keys rotate --compromised current --why "it was in a core dump"
        broker keys rotate --compromised all --why "a backup is in wrong hands"
        broker keys rotate --log
    """
    with refusing(json):
        from broker.cli.api import Api, one_of

        with Api() as api:
            if compromised is not None:
                found = api.get("/keys")
                names = [found["log"]] if log else ["all", *(key["kid"] for key in found["tokens"])]
                now = found["log"] if log else found["current"]
                compromised = now if compromised == "current" else one_of(compromised, names, "key")
            done = api.post("/keys/rotate", {"log": log, "compromised": compromised, "why": why})
        if json:
            print_json(done)
            return
        say(f"Done, as record {', '.join(map(str, done['records']))}.", "bold green")
        say()
        _print(done)
        if log:
            say("Tell those who pinned the key before it; `broker audit checkpoint` follows by itself.")


@commands.command()
def seal(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Encrypts the private keys on the disk, under what the configuration names. Stop the broker first.

    Set one of keys.passphrase_file, keys.passphrase_env and keys.key_file before. The broker needs it at every start;
    without it the keys, and backups of them, are lost. What lay on the disk in the clear before may still be found
    there: replace keys that may have been read.

    Example: `broker keys seal --config /etc/broker.toml`
    """
    _reseal(config, data_dir, close=True, json=json)


@commands.command()
def unseal(config: Config = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Decrypts the private keys on the disk, to seal them otherwise or not at all. Stop the broker first.

    Example: `broker keys unseal --config /etc/broker.toml`
    """
    _reseal(config, data_dir, close=False, json=json)


def _reseal(config: Path | None, data_dir: Path | None, *, close: bool, json: bool) -> None:
    with refusing(json):
        from broker import premises
        from broker.assembly import unlock
        from broker.db.lock import FolderLock
        from broker.entropy import system_entropy
        from broker.keys.files import reseal
        from broker.settings import load

        settings = load(config, storage__data_dir=data_dir)
        premises.secret_files(settings)
        secret = unlock(settings)
        folder = settings.storage.data_dir
        if secret is None or not (folder / "keys").is_dir():
            why = "name what seals the keys: passphrase_file, passphrase_env or key_file"
            missing = f"{folder} holds no keys; name the broker's data folder"
            key = "keys" if secret is None else "storage.data_dir"
            raise settings.refusal(key, why if secret is None else missing)
        lock = FolderLock(folder)
        try:
            count = reseal(folder / "keys", secret, system_entropy, close=close)
        finally:
            lock.release()
        if json:
            print_json({"sealed": close, "files": count, "folder": str(folder / "keys")})
            return
        say(f"{count} files {'sealed' if close else 'opened'} in {folder / 'keys'}.", "bold green")
        if not close:
            say("Take passphrase_file, passphrase_env or key_file out of the configuration, or seal them again.")


def _print(found: dict[str, Any]) -> None:
    print_table(
        ("token key", "type", "algorithm", "status", "signs from"),
        [
            (k["kid"], k["kty"], k["alg"], k["status"], utc(k["used_from"], "minutes") if k["used_from"] else "")
            for k in found["tokens"]
        ],
        empty="The broker has no token key.",
    )
    if found["next_at"] is not None:
        say(f"The next one signs from {utc(found['next_at'], 'minutes')}.")
    say(f"On the disk the private keys are {'sealed' if found['sealed'] else 'not sealed'}.")
    say()
    say(f"The log's key, for auditors to pin: {found['log']}")
